"""Run records that a test has left behind, and runs that are interrupted."""

from collections.abc import Callable
from pathlib import Path

import pytest

from mimicry.reporting.run_record import RunRecord
from mimicry.training.task import TaskModule

# Often enough that every step of a toy stage leaves a checkpoint.
EVERY_STEP = "checkpoint_minutes=1e-9"


def records(tmp_path: Path) -> list[Path]:
    """Those below `tmp_path/results`, sorted by path."""
    return sorted((tmp_path / "results").rglob("record.json"))


def numbers(record: RunRecord) -> list[object]:
    """All that must not depend on interruptions; times do."""
    return [*record.metrics, *record.curves, *((trial.stage, trial.steps, trial.epochs) for trial in record.trials)]


def stop_at(monkeypatch: pytest.MonkeyPatch, module: type, stage: str, step: int) -> Callable[[], None]:
    """Training of `stage` is interrupted before `step`, until the returned function is called."""
    original = module.training_step

    def interrupted(self: TaskModule, batch: dict, batch_idx: int) -> object:
        if self.stage == stage and self.global_step == step:
            raise RuntimeError("the power went out")
        return original(self, batch, batch_idx)

    monkeypatch.setattr(module, "training_step", interrupted)
    return lambda: monkeypatch.setattr(module, "training_step", original)
