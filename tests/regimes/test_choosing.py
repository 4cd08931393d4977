"""Candidates of a grid and epochs that are chosen on held-out rows: interrupted, they end as if they were not."""

from collections.abc import Callable
from pathlib import Path

import pytest
from cli import run_here
from runs import numbers, records

from mimicry.regimes import runner
from mimicry.reporting.run_record import RunRecord, read_record
from mimicry.training.task import TaskModule

RECALL = [
    *("regime=scratch", "attn=elu", "logger.mode=disabled", "trainer.accelerator=cpu", "analysis.rows=32"),
    *("task.num_symbols=8", "task.length=8", "task.max_train_rows=192", "task.max_validation_rows=32"),
    *("regime.holdout_rows=64", "regime.patience=2"),
]
# Eight steps an epoch of 128 rows in batches of 16.
BATCH = "regime.train.batch_size=16"
# At such a rate nothing is learnt, so the first epoch stays the best and the third is the last.
HOPELESS = "regime.train.learning_rate=1e-12"
Run = Callable[..., RunRecord]


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Run:
    def run(*arguments: str, results: str = "results") -> RunRecord:
        run_here(monkeypatch, *RECALL, BATCH, *arguments, f"paths.results={tmp_path / results}")
        (path,) = (tmp_path / results).rglob("record.json")
        return read_record(path)

    return run


def count_batches(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Steps at which a batch was trained on from here on."""
    steps: list[int] = []
    original = TaskModule.on_train_batch_start

    def started(self: TaskModule, batch: dict, batch_idx: int) -> None:
        steps.append(self.global_step)
        original(self, batch, batch_idx)

    monkeypatch.setattr(TaskModule, "on_train_batch_start", started)
    return steps


def test_candidates_that_were_judged_are_not_trained_again(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    grid = ("regime.train.epochs=2", "regime.train.learning_rate=[1e-2,1e-12]")
    expected = run(*grid, results="undisturbed")
    assert [trial.chosen for trial in expected.trials] == [True, False]
    with monkeypatch.context() as patch:
        original = TaskModule.training_step

        def interrupted(self: TaskModule, batch: dict, batch_idx: int) -> object:
            if self.learning_rate == 1e-12 and self.global_step == 3:
                raise RuntimeError("the power went out")
            return original(self, batch, batch_idx)

        patch.setattr(TaskModule, "training_step", interrupted)
        with pytest.raises(RuntimeError, match="the power went out"):
            run(*grid)
    steps = count_batches(monkeypatch)
    resumed = run(*grid)
    assert resumed.status == "finished"
    assert numbers(resumed) == numbers(expected)
    # Those of the second candidate alone.
    assert len(steps) == 16
    assert [trial.held_out for trial in resumed.trials] == [trial.held_out for trial in expected.trials]


def test_a_decision_to_stop_survives_an_interruption(run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    options = ("regime.train.epochs=9", HOPELESS)
    with monkeypatch.context() as patch:

        def full(*args: object) -> None:
            raise RuntimeError("the disk is full")

        patch.setattr(runner, "save_model", full)
        with pytest.raises(RuntimeError, match="the disk is full"):
            run(*options)
    steps = count_batches(monkeypatch)
    (trial,) = run(*options).trials
    assert steps == []
    assert (trial.epochs, trial.best_epoch, trial.steps) == (3, 1, 24)
    assert not (records(tmp_path)[0].parent / "progress").exists()


def test_ctrl_c_says_how_to_go_on(run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def stopped(self: TaskModule, batch: dict, batch_idx: int) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(TaskModule, "training_step", stopped)
    with pytest.raises(SystemExit, match=r"^error: interrupted; the same command goes on from what was kept$"):
        run("regime.train.epochs=1", HOPELESS)
    assert read_record(records(tmp_path)[0]).reason == "interrupted"


def test_throughput_counts_the_tokens_that_were_trained_on(run: Run) -> None:
    (whole,) = run("regime.train.epochs=2", HOPELESS, results="whole").trials
    (part,) = run("regime.train.epochs=2", HOPELESS, "+trainer.limit_train_batches=2", results="part").trials
    rows = {"whole": 2 * 128, "part": 2 * 2 * 16}
    # A row has 8 tokens of pairs, the key asked for and the answer; the time without validation is less than all of it.
    for trial, name in ((whole, "whole"), (part, "part")):
        assert rows[name] * 8 < trial.tokens_per_s * trial.wall_s
    assert part.tokens_per_s * part.wall_s < rows["whole"] * 8
