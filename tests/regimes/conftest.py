"""What every run of a regime on toy data shares."""

from pathlib import Path

import pytest
from toy import save_toy_checkpoint, save_toy_language_model, write_toy_task

BUDGETS = (
    "regime.teach.epochs=6",
    "regime.teach.learning_rate=3e-3",
    "regime.teach.batch_size=16",
    "regime.distill.epochs=4",
    "regime.distill.batch_size=16",
    "regime.distill.max_rows=64",
    "regime.recover.epochs=2",
    "regime.recover.learning_rate=1e-3",
    "regime.recover.batch_size=16",
)


@pytest.fixture
def arguments(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Overrides for a run that trains in seconds and writes below tmp_path only."""
    monkeypatch.setenv("MIMICRY_CACHE", str(tmp_path / "cache"))
    (tmp_path / "tiny").mkdir()
    save_toy_checkpoint(tmp_path / "tiny")
    write_toy_task(tmp_path / "glue")
    return [
        f"model.path={tmp_path / 'tiny'}",
        "model.max_length=32",
        "task=sst2",
        f"task.root={tmp_path / 'glue'}",
        f"paths.results={tmp_path / 'results'}",
        "logger.mode=disabled",
        "trainer.accelerator=cpu",
        *BUDGETS,
    ]


@pytest.fixture
def language_arguments(tmp_path: Path) -> list[str]:
    """Overrides for a run that trains in seconds and writes below tmp_path only."""
    (tmp_path / "tiny").mkdir()
    save_toy_language_model(tmp_path / "tiny")
    return [
        "regime=pretrained",
        f"model.path={tmp_path / 'tiny'}",
        "model.max_length=24",
        "task.max_train_rows=2",
        "task.max_validation_rows=1",
        f"paths.results={tmp_path / 'results'}",
        "logger.mode=disabled",
        "trainer.accelerator=cpu",
        "regime.distill.epochs=1",
        "regime.distill.batch_size=8",
        "regime.distill.max_rows=64",
        "regime.recover.epochs=1",
        "regime.recover.batch_size=8",
        "regime.recover.max_rows=64",
        "regime.recover.learning_rate=3e-2",
        "analysis.rows=16",
    ]
