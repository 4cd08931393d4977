"""What a W&B server gets from a run, and what of it a workspace shows; the server is a stand-in on this machine."""

import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import matplotlib.image
import numpy as np
import pytest
import wandb
from wandb_server import Received, isolate_wandb, wandb_server

from mimicry.reporting.outcome import headline, log_outcome
from mimicry.reporting.run_record import Measurement, RunRecord
from mimicry.reporting.series import Curve, HeadGrid
from mimicry.reporting.tracking import TrackedJob, resolve_mode, run_directory, wandb_run
from mimicry.reporting.workspace import HEADLINES, main

JOB = TrackedJob(
    *("mimicry", "job1", "finetuned-hedgehog-s0", "cola_conversion", "finetuned", ("hedgehog", "cola")),
    {"cell": {"attn": "hedgehog"}},
)
HEADS = HeadGrid("analysis/kl", "recovered", "nats", ((0.1, 0.2), (0.3, None)))
CURVE = Curve("analysis/monotonicity", "recovered", "q.k", (0.0, 1.0, 2.0), (0.1, None, 0.4))


@pytest.fixture
def server(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Received]:
    with wandb_server() as (address, received):
        isolate_wandb(tmp_path / "home", address, monkeypatch)
        monkeypatch.setenv("WANDB_API_KEY", "a" * 40)
        yield received
        wandb.teardown()


@pytest.fixture
def figure(tmp_path: Path) -> Path:
    matplotlib.image.imsave(tmp_path / "figure.png", np.zeros((4, 4)))
    return tmp_path / "figure.png"


def tables(received: Received) -> dict[str, Any]:
    """Uploaded tables by their key."""
    found = {path.split("/media/table/")[1]: body for path, body in received.files.items() if "/media/table/" in path}
    return {name.rsplit("_", 2)[0]: json.loads(body) for name, body in found.items()}


def test_an_online_run_can_be_grouped_sorted_and_read_in_tables(
    server: Received, make_record: Callable[..., RunRecord], figure: Path, tmp_path: Path
) -> None:
    assert resolve_mode("auto")[0] == "online"
    with wandb_run(JOB, tmp_path / "run", "online") as run:
        run.log({"train/loss": 0.5, "trainer/global_step": 7})
        log_outcome(run, make_record(heads=(HEADS,), curves=(CURVE,)), figure)
    about = server.runs["job1"]
    assert about["groupName"] == "cola_conversion"
    assert about["jobType"] == "finetuned"
    assert about["tags"] == ["hedgehog", "cola"]
    assert about["displayName"] == "finetuned-hedgehog-s0"
    assert json.loads(about["config"])["cell"]["value"] == {"attn": "hedgehog"}
    assert server.history["job1"][0]["train/loss"] == 0.5
    summary = server.summary["job1"]
    assert summary["score"] == 76
    assert summary["percent_of_teacher"] == pytest.approx(95)
    assert summary["recovered/val/accuracy"] == 0.76
    assert server.exit_codes["job1"] == 0
    shown = tables(server)
    assert shown["tables/states"]["columns"][:2] == ["attention", "accuracy (%)"]
    assert shown["tables/states"]["data"][-1][:3] == ["recovered", "76.0", "95.0"]
    assert len(shown["tables/trials"]["data"]) == 3
    assert shown["heads/analysis/kl"]["data"] == [
        ["recovered", 0, 0, 0.1],
        ["recovered", 0, 1, 0.2],
        ["recovered", 1, 0, 0.3],
        ["recovered", 1, 1, None],
    ]
    (curve,) = (table for name, table in shown.items() if name.startswith("curves/analysis/monotonicity"))
    assert [[row[0], row[-1]] for row in curve["data"]] == [[0.0, 0.1], [2.0, 0.4]]


def test_a_failed_run_is_failed_on_the_server_too(server: Received, tmp_path: Path) -> None:
    def fail() -> None:
        raise FloatingPointError("loss is nan")

    with pytest.raises(FloatingPointError), wandb_run(JOB, tmp_path / "run", "online"):
        fail()
    assert server.exit_codes["job1"] == 1


def test_an_offline_run_reaches_the_server_by_wandb_sync(server: Received, tmp_path: Path) -> None:
    with wandb_run(JOB, tmp_path / "run", "offline") as run:
        run.log({"train/loss": 0.5, "trainer/global_step": 7})
        run.summary["score"] = 76.0
    assert server.operations == []
    command = [sys.executable, "-m", "wandb", "sync", str(run_directory(run))]
    subprocess.run(command, check=True, env=os.environ, cwd=tmp_path, capture_output=True, timeout=60)
    assert server.runs["job1"]["groupName"] == "cola_conversion"
    assert server.history["job1"][0]["train/loss"] == 0.5
    assert server.summary["job1"]["score"] == 76


def test_headline_numbers_are_of_the_last_state_and_in_units_of_tables(make_record: Callable[..., RunRecord]) -> None:
    assert headline(make_record(analysis_s=1.5)) == {
        "score": pytest.approx(76),
        "percent_of_teacher": pytest.approx(95),
        "kl": 0.125,
        "entropy": 1.5,
        "train_s": 18.75,
        "analysis_s": 1.5,
        "peak_memory_gb": pytest.approx(1.073741824),
        "parameters": None,
    }
    language = tuple(
        Measurement("val/nll_token", value, "nats/token", state, "validation")
        for state, value in (("teacher", 2.0), ("recovered", 2.5))
    )
    numbers = headline(make_record(metrics=language))
    assert numbers["score"] == pytest.approx(12.182493960703473)
    assert numbers["percent_of_teacher"] == pytest.approx(100 * np.exp(-0.5))
    assert numbers["kl"] is None


# The package still uses validators of pydantic's first version.
@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_the_workspace_and_report_group_an_experiment_by_attention(
    server: Received, capsys: pytest.CaptureFixture[str]
) -> None:
    pytest.importorskip("wandb_workspaces", reason='needs the extra "cluster"')
    assert main(["lra", "--entity", "someone"]) == 0
    workspace, report = server.views
    assert (workspace["type"], report["type"]) == ("project-view", "runs")
    for view in server.views:
        assert (view["entityName"], view["projectName"], view["displayName"]) == ("someone", "mimicry", "mimicry: lra")
        shown = view["spec"]
        # Only runs of this group, by the attention that stands in their config.
        assert '"name":"group"' in shown.lower().replace(" ", "")
        assert '"value":"lra"' in shown.replace(" ", "")
        assert "cell.value.attn" in shown
        assert all(f"summary_metrics.{name}" in shown for name in HEADLINES)
        assert "analysis/attention_maps" in shown
    assert capsys.readouterr().out.count("/someone/mimicry") == 2
