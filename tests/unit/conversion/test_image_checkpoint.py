import inspect
import json
import re
from pathlib import Path
from typing import Any

import pytest
import torch
from families import tiny_model
from hydra.utils import get_class
from omegaconf import OmegaConf
from toy import save_toy_checkpoint
from transformers import DeiTConfig, DeiTForImageClassificationWithTeacher, PreTrainedModel, ViTImageProcessorPil

import mimicry
from mimicry.app import build
from mimicry.conversion.checkpoint import Checkpoint
from mimicry.conversion.image_checkpoint import ImageCheckpoint

CONF = Path(__file__).resolve().parents[3] / "conf/model"
TINY = {
    "image_size": 8,
    "patch_size": 4,
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "intermediate_size": 37,
}
HALF = [0.5] * 3


def save(folder: Path, model: PreTrainedModel, size: int = 12) -> Path:
    """The model with an image processor, in Hugging Face layout."""
    model.save_pretrained(folder)
    sides = {"height": size, "width": size}
    ViTImageProcessorPil(size=sides, image_mean=HALF, image_std=HALF).save_pretrained(folder)
    return folder


def refused(message: str, checkpoint: ImageCheckpoint, **options: Any) -> None:
    with pytest.raises(ValueError, match=message) as error:
        checkpoint.load(**({"num_labels": 3} | options))
    assert "\n" not in str(error.value)


# Random weights.


def test_an_architecture_is_built_with_an_image_processor_for_it() -> None:
    checkpoint = ImageCheckpoint(architecture=TINY)
    checkpoint.check()
    assert (checkpoint.name, checkpoint.max_length, checkpoint.modality) == ("vit-2x32", 5, "image")
    model, processor = checkpoint.load(num_labels=7)
    pixels = processor(torch.randint(0, 256, (2, 3, 20, 30), dtype=torch.uint8), return_tensors="pt")["pixel_values"]
    assert pixels.shape == (2, 3, 8, 8)
    assert (pixels.min() >= -1, pixels.max() <= 1) == (True, True)
    assert model(pixels).logits.shape == (2, 7)
    assert mimicry.convert(model, "hedgehog")(pixels).logits.shape == (2, 7)


def test_random_weights_are_drawn_from_torch_s_global_generator() -> None:
    weights = []
    for seed in (0, 0, 1):
        torch.manual_seed(seed)
        weights.append(ImageCheckpoint(architecture=TINY).load(num_labels=2)[0].classifier.weight)
    assert torch.equal(weights[0], weights[1])
    assert not torch.equal(weights[0], weights[2])


def test_a_gray_model_has_one_channel() -> None:
    checkpoint = ImageCheckpoint(architecture=TINY | {"num_channels": 1, "image_size": [8, 16]})
    model, processor = checkpoint.load(num_labels=2)
    assert checkpoint.max_length == 9
    assert tuple(processor.image_mean) == (0.5,)
    assert model(torch.zeros(1, 1, 8, 16)).logits.shape == (1, 2)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"hiden_size": 64}, r"^model\.architecture\.hiden_size: ViTConfig has no such option; it has hidden_size, "),
        ({"hidden_size": "64"}, r"^model\.architecture: .*'hidden_size'.*expected int, got str"),
        ({"num_attention_heads": 5}, r"^model\.architecture\.num_attention_heads must divide hidden_size = 32, got 5$"),
        ({"patch_size": 3}, r"^model\.architecture\.patch_size must divide image_size = 8, got 3$"),
        ({"num_channels": 2}, r"^model\.architecture\.num_channels must be 1 \(gray\) or 3 \(RGB\), got 2$"),
    ],
)
def test_an_architecture_that_cannot_work_is_refused(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message) as error:
        ImageCheckpoint(architecture=TINY | options).check()
    assert "\n" not in str(error.value)


# Trained weights.


@pytest.mark.parametrize(("family", "tokens"), [("vit", 10), ("deit", 11)])
def test_a_folder_loads_with_a_head_for_the_task(tmp_path: Path, family: str, tokens: int) -> None:
    original = tiny_model(family)
    checkpoint = ImageCheckpoint(str(save(tmp_path / "tiny", original)))
    checkpoint.check()
    assert (checkpoint.name, checkpoint.max_length) == ("tiny", tokens)
    model, processor = checkpoint.load(num_labels=5)
    assert (model.config.num_labels, model.classifier.out_features) == (5, 5)
    assert type(model) is type(original)
    assert processor.backend == "pil"
    encoder = original.base_model.state_dict()
    assert all(torch.equal(value, encoder[name]) for name, value in model.base_model.state_dict().items())
    assert model.base_model.embeddings.position_embeddings.shape[1] == tokens


def test_a_finished_donor_keeps_its_head(tmp_path: Path) -> None:
    original = tiny_model("vit")
    donor = ImageCheckpoint(path="some/encoder", teacher=str(save(tmp_path / "donor", original)))
    assert (donor.name, donor.max_length) == ("donor", 10)
    model, _ = donor.load(num_labels=3)
    assert torch.equal(model.classifier.weight, original.classifier.weight)


def test_a_donor_whose_head_does_not_fit_is_refused(tmp_path: Path) -> None:
    donor = ImageCheckpoint("some/encoder", teacher=str(save(tmp_path, tiny_model("vit"))))
    refused(r"^model\.teacher: its head must have 4 outputs, got 3$", donor, num_labels=4)


def test_a_donor_with_the_task_s_classes_in_another_order_is_refused(tmp_path: Path) -> None:
    names = {"id2label": {0: "cat", 1: "dog", 2: "fox"}, "label2id": {"cat": 0, "dog": 1, "fox": 2}}
    donor = ImageCheckpoint("some/encoder", teacher=str(save(tmp_path, tiny_model("vit", **names))))
    donor.load(num_labels=3, labels=("Cat", "dog", "fox"))
    donor.load(num_labels=3, labels=("n01", "n02", "n03"))
    refused(r"task's order \(dog, cat, fox\), got cat, dog, fox$", donor, labels=("dog", "cat", "fox"))


def test_a_model_of_many_labels_at_once_is_finetuned_for_one_and_refused_as_a_donor(tmp_path: Path) -> None:
    folder = str(save(tmp_path, tiny_model("vit", problem_type="multi_label_classification")))
    model, _ = ImageCheckpoint(folder).load(num_labels=3)
    output = model(torch.zeros(2, 3, 12, 12), labels=torch.tensor([2, 0]))
    torch.testing.assert_close(output.loss, torch.nn.functional.cross_entropy(output.logits, torch.tensor([2, 0])))
    message = r"must be a model for single_label_classification, got its problem_type 'multi_label_classification'$"
    refused(message, ImageCheckpoint("some/encoder", teacher=folder))


@pytest.mark.parametrize("architecture", ["encoder", "two heads"])
def test_a_donor_without_a_plain_head_is_refused(tmp_path: Path, architecture: str) -> None:
    if architecture == "encoder":
        model = tiny_model("vit").vit
        model.config.num_labels = 3
    else:
        model = DeiTForImageClassificationWithTeacher(DeiTConfig(**TINY | {"image_size": 12}, num_labels=3))
    folder = str(save(tmp_path, model))
    donor = ImageCheckpoint("some/encoder", teacher=folder)
    refused(r"is not a finished classifier, it lacks classifier\.bias, classifier\.weight$", donor)
    ImageCheckpoint(folder).load(num_labels=3)


def test_weights_with_holes_are_refused(tmp_path: Path) -> None:
    folder = save(tmp_path, tiny_model("vit"))
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | {"num_hidden_layers": 3}))
    refused(r"lacks weights of its encoder: vit\.layers\.2", ImageCheckpoint(str(folder)))


def test_an_image_processor_for_another_size_is_refused(tmp_path: Path) -> None:
    folder = save(tmp_path, tiny_model("vit"), size=16)
    refused(r"takes images of \(3, 12, 12\), but they are \(3, 16, 16\)$", ImageCheckpoint(str(folder)))


def test_a_folder_without_an_image_processor_is_refused(tmp_path: Path) -> None:
    folder = save(tmp_path, tiny_model("vit"))
    (folder / "preprocessor_config.json").unlink()
    refused(r"^model\.path: cannot load .*; a local folder works too$", ImageCheckpoint(str(folder)))


# What is refused before anything is loaded.


@pytest.mark.parametrize(
    ("config", "message"),
    [
        (None, "no config.json"),
        ("{not json", "is not JSON"),
        ("[1]", "must hold a JSON object, got list"),
        ("{}", "no attention seam for architecture None"),
        ('{"model_type": "beit"}', "no attention seam for architecture 'beit'|'beit' cannot be converted"),
        ('{"model_type": "bert"}', "'bert' reads no images"),
    ],
)
def test_a_folder_that_cannot_work_is_refused_at_once(tmp_path: Path, config: str | None, message: str) -> None:
    if config is not None:
        (tmp_path / "config.json").write_text(config)
    with pytest.raises(ValueError, match=message):
        ImageCheckpoint(str(tmp_path)).check()
    with pytest.raises(ValueError, match=message):
        assert ImageCheckpoint(str(tmp_path)).max_length


def test_a_missing_folder_is_refused_at_once() -> None:
    with pytest.raises(ValueError, match=r"^model\.teacher: no such folder: /no/such$"):
        ImageCheckpoint("some/encoder", teacher="/no/such").check()


def test_an_unreachable_hub_is_one_line_with_a_way_out_and_its_length_unknown() -> None:
    checkpoint = ImageCheckpoint("nobody/nothing")
    checkpoint.check()
    assert checkpoint.max_length is None
    refused(r"^model\.path: cannot load 'nobody/nothing'.*a local folder works too$", checkpoint)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({}, "model needs one of path and architecture, got neither"),
        ({"path": "a/b", "architecture": TINY}, "model needs one of path and architecture, got both"),
        (
            {"path": "a/b", "known_scores": {"imagenet": 80.3}},
            "model.known_scores.imagenet must be a fraction from -1 to 1, got 80.3",
        ),
        (
            {"path": "a/b", "known_scores": {"imagenet": 0.803}},
            "model.known_scores needs model.teacher, whose scores they are, got imagenet alone",
        ),
        ({"path": "a/b", "score_tolerance": -0.1}, "model.score_tolerance must be >= 0, got -0.1"),
    ],
)
def test_an_option_out_of_range_is_refused(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=f"^{re.escape(message)}$"):
        ImageCheckpoint(**options)


def test_a_text_model_is_refused_before_its_weights_are_read(tmp_path: Path) -> None:
    refused(r"'bert' reads no images", ImageCheckpoint(str(save_toy_checkpoint(tmp_path))))


def test_an_image_model_is_refused_as_a_text_model(tmp_path: Path) -> None:
    folder = str(save(tmp_path, tiny_model("vit")))
    for refuse in (Checkpoint(folder).check, lambda: Checkpoint(folder).load(num_labels=3)):
        with pytest.raises(ValueError, match=r"^model: 'vit' reads images; use mimicry\.conversion\.image_checkpoint"):
            refuse()


def test_a_donor_below_its_known_score_is_refused_and_one_finetuned_here_is_not_compared() -> None:
    donor = ImageCheckpoint("a/b", teacher="some/donor", known_scores={"imagenet": 0.803})
    donor.check_score("imagenet", "top1", 0.794)
    ImageCheckpoint("a/b").check_score("imagenet", "top1", 0.1)
    message = r"^model\.teacher: some/donor scores top1 0\.7920 on imagenet here, but its known score is 0\.8030 "
    with pytest.raises(ValueError, match=message):
        donor.check_score("imagenet", "top1", 0.792)


# The shipped files.


def model_files() -> dict[str, dict[str, Any]]:
    nodes = {path.stem: OmegaConf.load(path) for path in sorted(CONF.glob("*.yaml"))}
    options = {name: node.get("model", node) for name, node in nodes.items()}
    return {name: node for name, node in options.items() if get_class(node["_target_"]) is ImageCheckpoint}


@pytest.mark.parametrize("name", model_files())
def test_every_image_model_file_lists_every_option_and_builds_a_checkpoint_of_plain_values(name: str) -> None:
    options = OmegaConf.to_container(model_files()[name])
    assert set(options) == {"_target_", *inspect.signature(ImageCheckpoint).parameters}
    checkpoint = build(options)
    assert type(checkpoint.known_scores) in (dict, type(None))
    assert type(checkpoint.architecture) in (dict, type(None))
    checkpoint.check()


def test_the_embedded_model_reads_digits_in_17_tokens() -> None:
    checkpoint = build(OmegaConf.to_container(model_files()["vit_tiny"]))
    assert (checkpoint.max_length, checkpoint.name) == (17, "vit-4x64")


def test_the_donor_is_held_against_the_paper_s_score() -> None:
    donor = build(OmegaConf.to_container(model_files()["vit_base_donor"]))
    assert donor.known_scores == {"imagenet": 0.803}
