"""Records that leave the machine name no folder of it."""

from collections.abc import Callable
from dataclasses import replace

import pytest

from mimicry.reporting.portable import portable
from mimicry.reporting.run_record import RunRecord


@pytest.mark.parametrize("root", ["/home/me/data/glue", "/home/me/data/glue/", r"C:\data\glue"])
def test_absolute_paths_keep_their_last_name_only(root: str, make_record: Callable[..., RunRecord]) -> None:
    config = {"task": {"root": root, "files": [root, "train.tsv"], "max_rows": 3}, "model": {"path": None}}
    overrides = (f"task.root={root}", "attn=hedgehog", "seed=0,1")
    shared = portable(replace(make_record(), config=config, overrides=overrides))
    assert shared.config["task"] == {"root": "path/to/glue", "files": ["path/to/glue", "train.tsv"], "max_rows": 3}
    assert shared.config["model"] == {"path": None}
    assert shared.overrides == ("task.root=path/to/glue", "attn=hedgehog", "seed=0,1")


def test_relative_paths_and_all_else_stay(make_record: Callable[..., RunRecord]) -> None:
    record = replace(make_record(), config={"task": {"root": "data/glue"}}, overrides=None)
    assert portable(record) == record
