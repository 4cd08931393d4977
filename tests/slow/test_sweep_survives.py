"""Sweeps of real processes: killed at any moment and resumed, or several at once."""

import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from cli import REPO
from toy import save_toy_checkpoint, write_toy_task

from mimicry.reporting.comparison import comparison_sheet, group_records, read_records

pytestmark = pytest.mark.slow

SWEEP = ("-m", "attn=elu,hedgehog", "seed=0,1", "checkpoint_minutes=1e-9")
BUDGETS = (
    *("regime.teach.epochs=6", "regime.teach.learning_rate=3e-3", "regime.teach.batch_size=16"),
    *("regime.distill.epochs=4", "regime.distill.batch_size=16", "regime.distill.max_rows=64"),
    *("regime.recover.epochs=2", "regime.recover.learning_rate=1e-3", "regime.recover.batch_size=16"),
)
# Job 0 is under way, a job or two have finished, most have: shares of an undisturbed sweep's time.
KILLS = 3


@pytest.fixture
def arguments(tmp_path: Path) -> list[str]:
    (tmp_path / "tiny").mkdir()
    save_toy_checkpoint(tmp_path / "tiny")
    write_toy_task(tmp_path / "glue")
    data = ("task=sst2", f"task.root={tmp_path / 'glue'}", f"model.path={tmp_path / 'tiny'}", "model.max_length=32")
    return [*data, "logger.mode=disabled", "trainer.accelerator=cpu", "callbacks.progress=null", *BUDGETS]


def start(where: Path, *arguments: str) -> subprocess.Popen:
    """`python run.py ARGUMENTS` with results and cache of its own, in a process group of its own."""
    where.mkdir(exist_ok=True)
    command = [sys.executable, "run.py", *arguments, f"paths.results={where / 'results'}"]
    with (where / "log").open("a") as log:
        # Killed processes take their children along.
        return subprocess.Popen(
            command, cwd=REPO, env=os.environ | {"MIMICRY_CACHE": str(where / "cache")}, stdout=log, stderr=log,
            start_new_session=True,
        )  # fmt: skip


def table(where: Path) -> str:
    """Scores of all runs, as `python -m mimicry.reporting` shows them."""
    records = read_records(where / "results" / "runs")
    assert [record.reason for record in records] == [None] * len(records)
    return "\n".join(comparison_sheet(group).markdown() for group in group_records(records).values())


@pytest.mark.timeout(1800)
def test_a_sweep_killed_three_times_ends_with_the_table_of_an_undisturbed_one(
    arguments: list[str], tmp_path: Path
) -> None:
    began = time.perf_counter()
    assert start(tmp_path / "undisturbed", *SWEEP, *arguments).wait() == 0
    undisturbed_s = time.perf_counter() - began
    draw, moments = random.Random(time.time_ns()), []
    for _ in range(KILLS):
        process = start(tmp_path / "killed", *SWEEP, *arguments)
        moments.append(draw.uniform(0.2, 0.7) * undisturbed_s)
        try:
            process.wait(moments[-1])
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
        assert process.wait() in (0, -signal.SIGKILL), moments
    assert start(tmp_path / "killed", *SWEEP, *arguments).wait() == 0, moments
    assert table(tmp_path / "killed") == table(tmp_path / "undisturbed"), moments
    assert len(read_records(tmp_path / "killed")) == 4
    assert not list((tmp_path / "killed").rglob("progress"))


@pytest.mark.timeout(900)
def test_processes_that_need_the_same_teacher_or_run_share_it(arguments: list[str], tmp_path: Path) -> None:
    # Two variants, and one of them twice.
    started = [start(tmp_path / "shared", f"attn={attn}", *arguments) for attn in ("elu", "relu", "relu")]
    assert [process.wait() for process in started] == [0, 0, 0]
    records = read_records(tmp_path / "shared" / "results")
    assert sorted((record.attn, record.status) for record in records) == [("elu", "finished"), ("relu", "finished")]
    assert sorted(record.stages[0].reused for record in records) == [False, True]
    assert len(list((tmp_path / "shared" / "cache" / "teachers").glob("*/trials.json"))) == 1
    said = (tmp_path / "shared" / "log").read_text()
    assert "waiting for another process, which" in said
