import json
from pathlib import Path

import pytest
import torch
from families import tiny_model
from toy import save_toy_checkpoint

from mimicry.conversion.checkpoint import Checkpoint


def test_a_folder_loads_with_a_head_for_the_task(tmp_path: Path) -> None:
    model, tokenizer = Checkpoint(str(save_toy_checkpoint(tmp_path)), max_length=32).load(num_labels=5)
    assert model.config.num_labels == 5
    assert model.classifier.out_features == 5
    assert tokenizer.pad_token_id is not None


def test_a_finished_donor_keeps_its_head(tmp_path: Path) -> None:
    folder = save_toy_checkpoint(tmp_path, num_labels=2)
    model, _ = Checkpoint(path="asset:minilm", teacher=str(folder), max_length=32).load(num_labels=2)
    expected, _ = Checkpoint(str(folder), max_length=32).load(num_labels=2)
    assert torch.equal(model.classifier.weight, expected.classifier.weight)


def test_a_donor_whose_head_does_not_fit_is_refused(tmp_path: Path) -> None:
    folder = save_toy_checkpoint(tmp_path, num_labels=2)
    with pytest.raises(ValueError, match=r"model.teacher: its head must have 3 outputs, got 2"):
        Checkpoint(path="asset:minilm", teacher=str(folder), max_length=32).load(num_labels=3)


def test_a_donor_without_a_head_is_refused(tmp_path: Path) -> None:
    folder = save_toy_checkpoint(tmp_path, num_labels=2)
    tiny_model("bert", num_labels=2, vocab_size=40).bert.save_pretrained(folder)
    with pytest.raises(ValueError, match=r"is not a finished classifier, it lacks classifier"):
        Checkpoint(path="asset:minilm", teacher=str(folder), max_length=32).load(num_labels=2)


def test_weights_with_holes_are_refused(tmp_path: Path) -> None:
    folder = save_toy_checkpoint(tmp_path)
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | {"num_hidden_layers": 3}))
    with pytest.raises(ValueError, match=r"lacks weights of its encoder: bert.encoder.layer.2"):
        Checkpoint(str(folder), max_length=32).load(num_labels=2)


@pytest.mark.parametrize("path", ["/no/such/folder", "./missing", "~/missing-model", "a/b/c"])
def test_a_missing_folder_is_refused_before_anything_is_loaded(path: str) -> None:
    with pytest.raises(ValueError, match=r"model\.path: no such folder"):
        Checkpoint(path).check()


def test_an_unknown_asset_is_refused() -> None:
    with pytest.raises(ValueError, match=r"model.path must be one of asset:minilm when embedded, got 'asset:gpt'"):
        Checkpoint("asset:gpt").check()


@pytest.mark.parametrize(
    ("config", "message"),
    [
        (None, "no config.json"),
        ("{not json", "is not JSON"),
        ("{}", "no attention seam for architecture None"),
        ('{"model_type": "deberta-v2"}', "no attention seam for architecture 'deberta-v2'"),
        ('{"model_type": "bert", "max_position_embeddings": 64}', "max_length must be <= the model's 64 positions"),
    ],
)
def test_a_folder_that_cannot_work_is_refused_at_once(tmp_path: Path, config: str | None, message: str) -> None:
    if config is not None:
        (tmp_path / "config.json").write_text(config)
    with pytest.raises(ValueError, match=message):
        Checkpoint(str(tmp_path)).check()


def test_an_unreachable_hub_is_one_line_with_a_way_out() -> None:
    with pytest.raises(ValueError, match=r"cannot load 'nobody/nothing'.*a local folder works too") as refused:
        Checkpoint("nobody/nothing").load(num_labels=2)
    assert "\n" not in str(refused.value)


def test_a_short_max_length_is_refused() -> None:
    with pytest.raises(ValueError, match=r"model.max_length must be >= 8, got 7"):
        Checkpoint("asset:minilm", max_length=7)
