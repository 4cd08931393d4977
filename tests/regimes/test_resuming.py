"""A run that is interrupted goes on where it was, and ends with the numbers of an undisturbed one."""

from pathlib import Path

import pytest
from cli import run_here
from runs import EVERY_STEP, numbers, records, stop_at

from mimicry.reporting.run_record import RunRecord, read_record
from mimicry.training.distillation import DistillationModule
from mimicry.training.resuming import StageCheckpoint
from mimicry.training.task import TaskModule


@pytest.fixture
def undisturbed(arguments: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> RunRecord:
    run_here(monkeypatch, *arguments, f"paths.results={tmp_path / 'undisturbed'}")
    (path,) = (tmp_path / "undisturbed").rglob("record.json")
    return read_record(path)


# In the middle of an epoch, at its last batch, at the first of the next one; 16 steps are an epoch of the task stages
# and 4 of the distillation.
@pytest.mark.parametrize(
    ("module", "stage", "step"),
    [
        (TaskModule, "teach", 21),
        (DistillationModule, "distill", 6),
        (TaskModule, "recover", 15),
        (TaskModule, "recover", 16),
        (TaskModule, "recover", 17),
    ],
)
def test_an_interrupted_run_ends_as_an_undisturbed_one(
    undisturbed: RunRecord,
    module: type,
    stage: str,
    step: int,
    arguments: list[str],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    # Not the undisturbed run's teacher.
    monkeypatch.setenv("MIMICRY_CACHE", str(tmp_path / "another cache"))
    mend = stop_at(monkeypatch, module, stage, step)
    with pytest.raises(RuntimeError, match="the power went out"):
        run_here(monkeypatch, EVERY_STEP, *arguments)
    assert read_record(records(tmp_path)[0]).reason == "RuntimeError: the power went out"
    mend()
    steps = count_steps(monkeypatch)
    run_here(monkeypatch, EVERY_STEP, *arguments)
    resumed = read_record(records(tmp_path)[0])
    assert resumed.status == "finished"
    assert numbers(resumed) == numbers(undisturbed)
    # Nothing was trained twice, and nothing is left behind.
    order = ("teach", "distill", "recover")
    assert all(steps[earlier] == 0 for earlier in order[: order.index(stage)])
    assert steps[stage] == sum(trial.steps for trial in undisturbed.trials if trial.stage == STATES[stage]) - step
    assert not (records(tmp_path)[0].parent / "progress").exists()


STATES = {"teach": "teacher", "distill": "distilled", "recover": "recovered"}


def count_steps(monkeypatch: pytest.MonkeyPatch) -> dict[str, int]:
    """Training steps taken from here on, by stage."""
    taken = dict.fromkeys((*STATES, "train"), 0)
    original = StageCheckpoint.on_train_batch_start

    def count(self: StageCheckpoint, trainer: object, module: TaskModule, batch: dict, batch_idx: int) -> None:
        taken[module.stage] += 1
        original(self, trainer, module, batch, batch_idx)

    monkeypatch.setattr(StageCheckpoint, "on_train_batch_start", count)
    return taken
