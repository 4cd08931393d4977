"""Sweeps through the command line, one job after another."""

from pathlib import Path

import pytest
from cli import run_here
from runs import records

from mimicry.sweeps import jobs

# Two lengths: the first is refused, the second runs.
LENGTHS = "model.max_length=4,32"
SHORT = ("regime.teach.epochs=1", "regime.distill.epochs=0", "regime.recover.epochs=0", "task.max_train_rows=32")


def states(tmp_path: Path) -> list[tuple[str, str, bool]]:
    """Name, state and whether it was reused, of each job of the only sweep."""
    (sweep,) = {path.parent.parent for path in (tmp_path / "results" / "sweeps").rglob("state.json")}
    return [(job.name, job.state, job.reused) for job in jobs(sweep)]


def test_a_failed_job_does_not_stop_the_others_and_finished_ones_are_not_repeated(
    arguments: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    sweep = ["-m", *arguments, *SHORT, LENGTHS]
    with pytest.raises(SystemExit, match=r"model.max_length must be >= 8, got 4"):
        run_here(monkeypatch, *sweep, "experiment=first")
    assert states(tmp_path) == [("model.max_length=4", "failed", False), ("model.max_length=32", "finished", False)]
    written = records(tmp_path)[0].stat().st_mtime_ns
    run_here(monkeypatch, "-m", *arguments, *SHORT, "attn=hedgehog", "experiment=second")
    (second,) = (tmp_path / "results/sweeps/second").iterdir()
    assert [job.reused for job in jobs(second)] == [True]
    assert [path.stat().st_mtime_ns for path in records(tmp_path)] == [written]


def test_with_fail_fast_the_first_failure_is_the_last_job(
    arguments: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(SystemExit, match=r"model.max_length must be >= 8, got 4"):
        run_here(monkeypatch, "-m", *arguments, *SHORT, LENGTHS, "fail_fast=true")
    assert states(tmp_path) == [("model.max_length=4", "failed", False)]
    assert records(tmp_path) == []


@pytest.mark.parametrize("option", ["trainer.devices=auto", "+trainer.strategy=ddp"])
def test_several_devices_are_refused_inside_a_sweep(
    option: str, arguments: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(SystemExit, match="processes of one job would each run the whole sweep"):
        run_here(monkeypatch, "-m", *arguments, "seed=0,1", option)
    assert records(tmp_path) == []
