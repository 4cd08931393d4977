"""One run in two processes, as a user starts it."""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from cli import REPO, run_here, run_outside
from runs import records

from mimicry.locks import held
from mimicry.regimes.progress import TRIALS, keep
from mimicry.regimes.runner import Runner
from mimicry.regimes.trial import Trial
from mimicry.reporting.run_record import read_record

STATES = ("teacher", "no_train", "distilled", "recovered")


BUDGETS = ("regime.teach.epochs=2", "regime.distill.epochs=1", "regime.recover.epochs=1")


# Every process imports everything anew: seconds, but minutes on a machine that is busy.
@pytest.mark.timeout(600)
@pytest.mark.parametrize("trainer", ["ddp", pytest.param("fsdp", marks=pytest.mark.slow)])
def test_two_processes_leave_one_record_with_the_numbers_of_one(
    trainer: str, arguments: list[str], tmp_path: Path
) -> None:
    # Processes draw dropout of their own; without it they must end where one does.
    config = tmp_path / "tiny/config.json"
    dropout = {"hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0}
    config.write_text(json.dumps(json.loads(config.read_text()) | dropout))
    found = []
    for name, parallel in {"one": (), "two": (f"trainer={trainer}", "trainer.devices=2")}.items():
        results = f"paths.results={tmp_path / name / 'results'}"
        ran = run_outside("attn=hedgehog", *arguments, *BUDGETS, results, *parallel, OMP_NUM_THREADS="1", timeout=400)
        assert ran.returncode == 0, ran.stderr[-3000:]
        (path,) = records(tmp_path / name)
        found.append(read_record(path))
        # What goes to the terminal is said once, and without warnings of other libraries.
        assert ran.stdout.count("hedgehog on sst2") == ran.stderr.count("recovered: accuracy") == 1
        assert "Warning" not in ran.stderr
    one, two = found
    assert two.status == "finished"
    assert two.config["trainer"].get("strategy") != one.config["trainer"].get("strategy")
    assert [stage.steps for stage in two.stages] == [stage.steps for stage in one.stages]
    for state in STATES:
        assert two.value(state, "val/accuracy") == pytest.approx(one.value(state, "val/accuracy"), abs=0.02)
        # Means over the tokens of each process's rows are not quite those over all tokens.
        assert two.value(state, "analysis/entropy") == pytest.approx(one.value(state, "analysis/entropy"), rel=0.01)
    assert two.data["rows"] == one.data["rows"]


TOGETHER = ("attn=elu", "trainer=ddp", "trainer.devices=2", *BUDGETS)
# Torchrun's own, of a port on this machine.
TORCHRUN = ("-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2")


@contextmanager
def torchrun(log: Path, *arguments: str) -> Iterator[subprocess.Popen]:
    """`python run.py ARGUMENTS` in two processes that start together; none of them is left behind."""
    command = [sys.executable, *TORCHRUN, "run.py", *arguments]
    with log.open("w") as said:
        environment = os.environ | {"OMP_NUM_THREADS": "1"}
        main = subprocess.Popen(command, cwd=REPO, env=environment, stdout=said, stderr=said, start_new_session=True)
        try:
            yield main
        finally:
            if main.poll() is None:
                os.killpg(main.pid, signal.SIGKILL)
                main.wait()


def teacher_of_another_run(arguments: list[str], monkeypatch: pytest.MonkeyPatch) -> Path:
    """Keeps a teacher where a run with these arguments looks for its own; returns the folder."""
    folders = []

    def run(runner: Runner, stages: Iterator) -> None:
        trial = Trial(1, 1e-3, 1, 1.0, None, None, chosen=True)
        keep(runner.teacher_folder, next(stages).model, (trial,))
        folders.append(runner.teacher_folder)
        raise ValueError("kept")

    with monkeypatch.context() as patch:
        patch.setattr(Runner, "run", run)
        with pytest.raises(SystemExit, match="kept"):
            run_here(patch, *arguments)
    return folders[0]


# Half a minute of three processes that all import everything.
@pytest.mark.slow
@pytest.mark.timeout(600)
def test_processes_that_start_together_wait_for_another_run_and_go_the_same_way(
    arguments: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    teacher = teacher_of_another_run([*arguments, *TOGETHER], monkeypatch)
    results = f"paths.results={tmp_path / 'together'}"
    hidden, log = teacher / "hidden", tmp_path / "log"
    (teacher / TRIALS).rename(hidden)
    with torchrun(log, *arguments, *TOGETHER, results) as main:
        with held(teacher.with_suffix(".lock"), "is the test"):
            while "waiting for another process, which finetunes the same teacher" not in log.read_text():
                assert main.poll() is None, log.read_text()[-3000:]
                time.sleep(0.2)
            # The other process holds no lock; on its own it would finetune what is not there yet.
            time.sleep(5)
            hidden.rename(teacher / TRIALS)
        assert main.wait(timeout=300) == 0, log.read_text()[-3000:]
    (path,) = (tmp_path / "together").rglob("record.json")
    record, written = read_record(path), path.stat().st_mtime_ns
    assert (record.status, record.stages[0].reused) == ("finished", True)
    with torchrun(log, *arguments, *TOGETHER, results) as main:
        assert main.wait(timeout=300) == 0, log.read_text()[-3000:]
    assert log.read_text().count("elu on sst2") == 1
    assert path.stat().st_mtime_ns == written
