"""The batches are what an encoder classifier takes."""

from pathlib import Path
from typing import Any

import pytest
import torch

from mimicry.attention.shipped import load_variant
from mimicry.data.batches import TaskBatches, model_inputs
from mimicry.data.lra.generated import SplitSizes
from mimicry.data.lra.listops import ListOps
from mimicry.data.lra.listops_trees import TreeRules
from mimicry.data.lra.retrieval import LraRetrieval
from mimicry.models import Encoder, EncoderSizes

SIZES = EncoderSizes(num_layers=2, hidden_size=16, num_heads=2, mlp_size=32)


def build_model(task: Any) -> Encoder:
    return Encoder(SIZES, task.vocab_size, task.max_length, task.num_labels, load_variant("elu"), task.towers)


def listops(folder: Path) -> ListOps:
    rules = TreeRules(max_depth=3, max_args=3, min_length=4, max_length=30)
    return ListOps(rules, SplitSizes(train=8, validation=2, test=2))


def retrieval(folder: Path) -> LraRetrieval:
    for split in ("train", "eval", "test"):
        (folder / f"new_aan_pairs.{split}.tsv").write_text("1.0\ta\tb\tone\ttwo three\n0.0\ta\tc\tone two\tx\n" * 3)
    return LraRetrieval(root=str(folder), max_length=20)


@pytest.mark.parametrize("build", [listops, retrieval])
def test_every_batch_fits_the_model_that_the_task_describes(build: Any, tmp_path: Path) -> None:
    task = build(tmp_path)
    data = task.load()
    encoder = task.encoder(None, task.max_length)
    model = build_model(task)
    batches = TaskBatches(encoder, data.train, data.train, [], data.validation, seed=0)
    for batch in batches.training("train", batch_size=3):
        assert model(**batch).loss.isfinite()
        assert model(**model_inputs(batch)).logits.shape == (len(batch["labels"]), task.num_labels)


def test_padding_does_not_change_what_a_model_says(tmp_path: Path) -> None:
    task = retrieval(tmp_path)
    rows = task.load().train[:2]
    encoder = task.encoder(None, task.max_length)
    model = build_model(task).double()
    together = model(**model_inputs(encoder.collate(rows))).logits
    alone = [model(**model_inputs(encoder.collate([row]))).logits for row in rows]
    torch.testing.assert_close(together, torch.cat(alone))
