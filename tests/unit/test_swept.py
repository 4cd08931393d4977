"""How many jobs a sweep has, read from what Hydra has written about it."""

from pathlib import Path

import pytest
from omegaconf import OmegaConf

from mimicry.app import swept

PARAMS = {"seed": "0,1,2", "attn": "elu,hedgehog", "task": "cola"}


def about(folder: Path, params: dict[str, str] | None, *task: str) -> Path:
    hydra = {"sweeper": {"params": params}, "overrides": {"task": list(task)}}
    OmegaConf.save(OmegaConf.create({"hydra": hydra}), folder / "multirun.yaml")
    return folder / "multirun.yaml"


@pytest.mark.parametrize(
    ("params", "task", "expected"),
    [
        (PARAMS, (), (6, ["seed", "attn"])),
        # The command line narrows the sweep of an experiment, or widens it.
        (PARAMS, ("attn=elu",), (3, ["seed"])),
        (PARAMS, ("task=sst2,mrpc", "seed=0"), (4, ["attn", "task"])),
        (None, ("attn=elu,relu", "regime.recover.epochs=[1,2]"), (2, ["attn"])),
        (None, ("regime.objectives={output:1.0},{output:0.0}", "seed=range(0,3)"), (6, ["regime.objectives", "seed"])),
        # Which files there are, only the sweeper knows.
        (None, ("attn=glob(*)", "seed=0,1"), (None, ["attn", "seed"])),
    ],
)
def test_the_jobs_of_a_sweep_are_the_product_of_its_last_choices(
    params: dict[str, str] | None, task: tuple[str, ...], expected: tuple[int | None, list[str]], tmp_path: Path
) -> None:
    assert swept(about(tmp_path, params, *task)) == expected


def test_a_sweeper_that_writes_nothing_decides_as_it_goes(tmp_path: Path) -> None:
    assert swept(tmp_path / "multirun.yaml") == (None, [])
