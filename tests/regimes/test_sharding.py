"""`trainer=fsdp` from the command line: the numbers of an ordinary run, also after an interruption."""

import os
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from cli import run_here
from runs import EVERY_STEP, numbers, stop_at

from mimicry.ranks import have_met
from mimicry.reporting.run_record import RunRecord, read_record
from mimicry.training.task import TaskModule

SHARDED = ("trainer=fsdp", "trainer.devices=1", "trainer.accelerator=cpu")


@pytest.fixture(autouse=True)
def _as_it_was() -> Iterator[None]:
    """One process shares with nobody, but has met itself, at an address: tests after this one find things as before."""
    before = dict(os.environ)
    yield
    if have_met():
        torch.distributed.destroy_process_group()
    os.environ.clear()
    os.environ.update(before)


def run(monkeypatch: pytest.MonkeyPatch, results: Path, *arguments: str) -> RunRecord:
    run_here(monkeypatch, *arguments, f"paths.results={results}")
    (path,) = results.rglob("record.json")
    return read_record(path)


@pytest.mark.parametrize("trained", ["lora", pytest.param("full", marks=pytest.mark.slow)])
def test_a_sharded_run_has_the_numbers_of_an_ordinary_one_even_if_it_is_interrupted(
    trained: str, language_arguments: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    arguments = [*language_arguments, f"regime.recover_with={trained}", "regime.recover.batch_size=2"]
    ordinary = run(monkeypatch, tmp_path / "ordinary", *arguments)
    mend = stop_at(monkeypatch, TaskModule, "recover", 3)
    with pytest.raises(RuntimeError, match="the power went out"):
        run(monkeypatch, tmp_path / "sharded", *arguments, *SHARDED, EVERY_STEP)
    mend()
    sharded = run(monkeypatch, tmp_path / "sharded", *arguments, *SHARDED, EVERY_STEP)
    assert sharded.status == "finished"
    assert sharded.config["trainer"]["strategy"] == {"_target_": "mimicry.training.sharding.ShardedStrategy"}
    for metric, expected in zip(sharded.metrics, ordinary.metrics, strict=True):
        assert metric.value == pytest.approx(expected.value, rel=1e-5)
    assert numbers(sharded)[-3:] == numbers(ordinary)[-3:]
