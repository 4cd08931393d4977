"""Saving and loading in detail; what holds for every family is in tests/contracts/test_saving.py."""

import copy
import functools
import json
import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from families import batch_for, tiny_model
from safetensors.torch import load_file, save_file
from saved import load, logits
from toy import save_toy_checkpoint
from transformers import (
    AutoConfig,
    AutoImageProcessor,
    AutoModel,
    AutoModelForSequenceClassification,
    AutoTokenizer,
    BertForSequenceClassification,
    PreTrainedModel,
    ViTImageProcessorPil,
)

import mimicry
from mimicry.attention import LinearAttention, SoftmaxAttention
from mimicry.attention.capture import attention_layers
from mimicry.attention.shipped import load_variant, shipped_variants
from mimicry.conversion.seam import ATTRIBUTE

FIRST_MAP = f"bert.encoder.layer.0.attention.self.{ATTRIBUTE}.query_map.projection.weight"


def saved(folder: Path, family: str = "bert", attn: Any = "hedgehog", **options: Any) -> PreTrainedModel:
    student = mimicry.convert(tiny_model(family), attn)
    student.save_pretrained(folder, **options)
    return student


def check_equal(loaded: PreTrainedModel, student: PreTrainedModel, family: str = "bert") -> None:
    batch = batch_for(family)
    assert torch.equal(logits(loaded, batch), logits(student, batch))


@pytest.mark.parametrize("family", ["bert", "llama"])
@pytest.mark.parametrize("attn", shipped_variants())
def test_every_shipped_variant_comes_back_to_the_bit(attn: str, family: str, tmp_path: Path) -> None:
    student = saved(tmp_path, family, attn)
    # Random rows must be those of the student, whatever the generator would give now.
    torch.manual_seed(123)
    check_equal(load(family, tmp_path), student, family)


@pytest.mark.parametrize("attn", ["hedgehog", "performer"])
def test_maps_that_queries_and_keys_share_are_shared_again(attn: str, tmp_path: Path) -> None:
    student = saved(tmp_path, attn=functools.partial(load_variant(attn), tie_maps=True))
    assert not any("key_map" in name for name in load_file(tmp_path / "model.safetensors"))
    loaded = load("bert", tmp_path)
    assert all(layer.query_map is layer.key_map for layer in attention_layers(loaded).values())
    check_equal(loaded, student)


def test_weights_that_the_host_ties_are_tied_again(tmp_path: Path) -> None:
    student = saved(tmp_path, "gpt2")
    loaded = load("gpt2", tmp_path)
    assert loaded.lm_head.weight is loaded.transformer.wte.weight
    check_equal(loaded, student, "gpt2")


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16])
def test_maps_keep_the_dtype_they_were_saved_in(dtype: torch.dtype, tmp_path: Path) -> None:
    student = mimicry.convert(tiny_model("bert"), "hedgehog").to(dtype)
    student.save_pretrained(tmp_path)
    loaded = load("bert", tmp_path)
    assert {p.dtype for p in loaded.parameters()} == {dtype}
    check_equal(loaded, student)


def test_a_student_can_be_loaded_in_another_dtype(tmp_path: Path) -> None:
    saved(tmp_path)
    loaded = load("bert", tmp_path, dtype=torch.bfloat16)
    assert {p.dtype for name, p in loaded.named_parameters() if ATTRIBUTE in name} == {torch.float32}
    assert {p.dtype for name, p in loaded.named_parameters() if ATTRIBUTE not in name} == {torch.bfloat16}


def test_a_large_student_is_saved_in_shards(tmp_path: Path) -> None:
    student = saved(tmp_path, max_shard_size="20KB")
    assert len(list(tmp_path.glob("model-*.safetensors"))) > 2
    check_equal(load("bert", tmp_path), student)


def test_what_was_loaded_is_saved_again_as_it_was(tmp_path: Path) -> None:
    saved(tmp_path / "first")
    load("bert", tmp_path / "first").save_pretrained(tmp_path / "second")
    for name in ("config.json", "README.md", "model.safetensors"):
        assert (tmp_path / "first" / name).read_bytes() == (tmp_path / "second" / name).read_bytes()


def test_a_tokenizer_beside_the_student_loads_too(tmp_path: Path) -> None:
    save_toy_checkpoint(tmp_path)
    tokenizer = AutoTokenizer.from_pretrained(tmp_path)
    saved(tmp_path / "student")
    tokenizer.save_pretrained(tmp_path / "student")
    loaded = AutoTokenizer.from_pretrained(tmp_path / "student")
    assert type(loaded) is type(tokenizer)
    assert loaded("w1 good w2")["input_ids"] == tokenizer("w1 good w2")["input_ids"]


def test_an_image_processor_beside_the_student_loads_too(tmp_path: Path) -> None:
    saved(tmp_path, "vit")
    ViTImageProcessorPil(size={"height": 12, "width": 12}).save_pretrained(tmp_path)
    loaded = AutoImageProcessor.from_pretrained(tmp_path, backend="pil")
    assert loaded.size == {"height": 12, "width": 12}


def test_a_head_on_weights_that_were_saved_without_one_is_saved_with_them(tmp_path: Path) -> None:
    # As with most encoders on the hub; the host library notes that names had no prefix, and drops it when it saves.
    tiny_model("bert").bert.save_pretrained(tmp_path / "host")
    student = mimicry.convert(load("bert", tmp_path / "host"), "hedgehog")
    student.save_pretrained(tmp_path / "student")
    check_equal(load("bert", tmp_path / "student"), student)


def test_another_head_can_be_put_on_a_student_and_stays_linear(tmp_path: Path) -> None:
    student = saved(tmp_path)
    bare = AutoModel.from_pretrained(tmp_path)
    assert [type(layer) for layer in attention_layers(bare).values()] == [LinearAttention] * 2
    batch = batch_for("bert")
    with torch.no_grad():
        assert torch.equal(bare(**batch).last_hidden_state, student.bert(**batch).last_hidden_state)
    wider = AutoModelForSequenceClassification.from_pretrained(tmp_path, num_labels=5, ignore_mismatched_sizes=True)
    assert logits(wider, batch).shape == (3, 5)


def test_the_inner_model_of_a_student_can_be_saved_alone(tmp_path: Path) -> None:
    student = mimicry.convert(tiny_model("bert"), "hedgehog")
    student.bert.save_pretrained(tmp_path)
    batch = batch_for("bert")
    with torch.no_grad():
        expected = student.bert(**batch).last_hidden_state
        assert torch.equal(AutoModel.from_pretrained(tmp_path)(**batch).last_hidden_state, expected)


def test_a_loaded_student_is_also_its_own_softmax_reference(tmp_path: Path) -> None:
    model, batch = tiny_model("bert"), batch_for("bert")
    mimicry.convert(model, "hedgehog").save_pretrained(tmp_path)
    loaded = load("bert", tmp_path)
    loaded.set_attn_implementation("sdpa")
    assert torch.equal(logits(loaded, batch), logits(model, batch))


def test_a_student_trains_on_after_loading(tmp_path: Path) -> None:
    saved(tmp_path)
    loaded = load("bert", tmp_path).train()
    loaded(**batch_for("bert"), labels=torch.tensor([0, 1, 2])).loss.backward()
    assert all(p.grad is not None for name, p in loaded.named_parameters() if ATTRIBUTE in name)


@pytest.mark.parametrize("copied", [copy.deepcopy, lambda model: pickle.loads(pickle.dumps(model))])
@pytest.mark.parametrize("family", ["vit", "llama"])
def test_copies_and_pickles_are_students_too(
    family: str, copied: Callable[[PreTrainedModel], PreTrainedModel], tmp_path: Path
) -> None:
    student = mimicry.convert(tiny_model(family), "hedgehog")
    twin = copied(student)
    assert (type(twin), type(twin.config)) == (type(student), type(student.config))
    assert twin.config.mimicry == student.config.mimicry
    check_equal(twin, student, family)
    twin.save_pretrained(tmp_path)
    check_equal(load(family, tmp_path), student, family)


def test_a_student_converted_again_is_saved_as_what_it_became(tmp_path: Path) -> None:
    again = mimicry.convert(mimicry.convert(tiny_model("bert"), "elu"), {"0": "taylor"})
    again.save_pretrained(tmp_path)
    loaded = load("bert", tmp_path)
    maps = [type(layer.query_map).__name__ for layer in attention_layers(loaded).values()]
    assert maps == ["TaylorFeatureMap", "EluFeatureMap"]
    check_equal(loaded, again)


def test_an_attention_that_cannot_be_described_converts_and_is_refused_when_saved(tmp_path: Path) -> None:
    student = mimicry.convert(tiny_model("bert"), lambda dims: SoftmaxAttention(dims))
    logits(student, batch_for("bert"))
    with pytest.raises(ValueError, match=r"attention of layers 0-1: .*<lambda> is no class of mimicry"):
        student.save_pretrained(tmp_path / "student")
    assert not (tmp_path / "student").exists()


def test_a_file_in_place_of_the_folder_is_refused(tmp_path: Path) -> None:
    (tmp_path / "student").write_text("")
    with pytest.raises(ValueError, match="save_directory must be a folder, got the file"):
        saved(tmp_path / "student")


def test_another_attention_is_not_taken_in_place_of_ours(tmp_path: Path) -> None:
    student = saved(tmp_path)
    for source in (AutoModelForSequenceClassification, type(student)):
        with pytest.raises(
            ValueError, match="attn_implementation must be 'mimicry' or not given for a converted model"
        ):
            source.from_pretrained(tmp_path, attn_implementation="sdpa")
    # A class of the host's own is built around softmax, and stops at the first token.
    host = BertForSequenceClassification.from_pretrained(tmp_path)
    with pytest.raises(
        ValueError, match=r"carries no converted attention: .* holds a converted model; load it"
    ) as refused:
        logits(host, batch_for("bert"))
    assert f"{tmp_path} holds a converted model; load it with mimicry.load or an Auto class" in str(refused.value)


def test_code_in_the_folder_is_never_run(tmp_path: Path) -> None:
    student = saved(tmp_path)
    edit_config(tmp_path, lambda config: config.update(auto_map=dict.fromkeys(AUTO_CLASSES, "evil.Evil")))
    (tmp_path / "evil.py").write_text("raise SystemExit('ran')")
    (tmp_path / "custom_generate").mkdir()
    (tmp_path / "custom_generate" / "generate.py").write_text("raise SystemExit('ran')")
    for trusted in (None, True):
        check_equal(load("bert", tmp_path, trust_remote_code=trusted), student)


AUTO_CLASSES = ("AutoConfig", "AutoModelForSequenceClassification")


def edit_config(folder: Path, change: Callable[[dict[str, Any]], object]) -> None:
    config = json.loads((folder / "config.json").read_text())
    change(config)
    (folder / "config.json").write_text(json.dumps(config))


def edit_weights(folder: Path, change: Callable[[dict[str, torch.Tensor]], object]) -> None:
    weights = load_file(folder / "model.safetensors")
    change(weights)
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})


def truncate(path: Path) -> None:
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def put(config: dict[str, Any], **values: Any) -> None:
    config["mimicry"] |= values


HALF_WRITTEN: dict[str, tuple[Callable[[Path], object], str]] = {
    "no weights": (lambda at: (at / "model.safetensors").unlink(), r"has no model.safetensors: .* half-written"),
    "half the weights": (
        lambda at: truncate(at / "model.safetensors"),
        r"model.safetensors is cut off or no safetensors",
    ),
    "empty weights": (
        lambda at: (at / "model.safetensors").write_bytes(b""),
        r"model.safetensors is cut off or no saf",
    ),
    "a map missing": (
        lambda at: edit_weights(at, lambda weights: weights.pop(FIRST_MAP)),
        rf"lacks weights of its attention: {FIRST_MAP}",
    ),
    "a map of another shape": (
        lambda at: edit_weights(at, lambda weights: weights.update({FIRST_MAP: torch.zeros(4, 6, 8)})),
        rf"has weights of another shape than its attention: {FIRST_MAP}",
    ),
    "maps of another attention": (
        lambda at: edit_config(at, lambda config: config["mimicry"]["attention"].update(softmax_spec())),
        r"has weights that the attention in its config does not: bert.*mimicry_attention",
    ),
    "a host weight missing": (
        lambda at: edit_weights(at, lambda weights: weights.pop("bert.embeddings.word_embeddings.weight")),
        r"lacks weights: bert.embeddings.word_embeddings.weight",
    ),
    "no spec": (
        lambda at: edit_config(at, lambda config: config.pop("mimicry")),
        r"config.json: a converted model must say what it is under 'mimicry', got None",
    ),
    "no family": (
        lambda at: edit_config(at, lambda config: config["mimicry"].pop("family")),
        r"config.json: a converted model must say what it is under 'mimicry', got {'attention'",
    ),
    "an unknown family": (
        lambda at: edit_config(at, lambda config: put(config, family="roformer")),
        r"no attention seam for architecture 'roformer'; convertible: bert",
    ),
    "a refused family": (
        lambda at: edit_config(at, lambda config: put(config, family="bloom")),
        r"architecture 'bloom' cannot be converted: ALiBi",
    ),
    "no attention": (
        lambda at: edit_config(at, lambda config: put(config, attention=None)),
        r"attention must map layers to what they are, got None",
    ),
    "a foreign target": (
        lambda at: edit_config(at, lambda config: put(config, attention={"0-1": {"_target_": "os.system"}})),
        r"_target_ must be a class derived from Attention in mimicry.attention, got 'os.system'",
    ),
    "an unknown dtype": (
        lambda at: edit_config(at, lambda config: put(config, dtype="banana")),
        r"config.json: mimicry.dtype must be one such as float32 or null, got 'banana'",
    ),
    "a dtype that is none": (
        lambda at: edit_config(at, lambda config: put(config, dtype="nn")),
        r"config.json: mimicry.dtype must be one such as float32 or null, got 'nn'",
    ),
    "another depth": (
        lambda at: edit_config(at, lambda config: config.update(num_hidden_layers=3)),
        r"attention must be given for all 3 layers of the model, got 0-1",
    ),
}


def softmax_spec() -> dict[str, Any]:
    return {"0-1": {"_target_": "mimicry.attention.SoftmaxAttention", "_partial_": True}}


@pytest.mark.parametrize("case", HALF_WRITTEN)
def test_a_checkpoint_that_is_not_whole_is_refused_in_one_line(case: str, tmp_path: Path) -> None:
    saved(tmp_path)
    damage, message = HALF_WRITTEN[case]
    damage(tmp_path)
    for read in (AutoModelForSequenceClassification.from_pretrained, mimicry.load):
        with pytest.raises(ValueError, match=message) as refused:
            read(tmp_path)
        assert "\n" not in str(refused.value)


def test_shards_that_are_missing_or_cut_off_are_refused_by_name(tmp_path: Path) -> None:
    saved(tmp_path, max_shard_size="20KB")
    first, second, *_ = sorted(tmp_path.glob("model-*.safetensors"))
    whole = first.read_bytes()
    truncate(first)
    with pytest.raises(ValueError, match=f"{first.name} is cut off"):
        load("bert", tmp_path)
    # A file of another model may well be whole.
    first.write_bytes(second.read_bytes())
    with pytest.raises(ValueError, match=rf"{first.name} lacks .*, which model.safetensors.index.json says is there"):
        load("bert", tmp_path)
    first.write_bytes(whole)
    second.unlink()
    with pytest.raises(ValueError, match=f"{second.name} is missing: the checkpoint is half-written"):
        load("bert", tmp_path)
    (tmp_path / "model.safetensors.index.json").write_text("{")
    with pytest.raises(ValueError, match=r"index.json is no index of weights"):
        load("bert", tmp_path)


def test_load_refuses_what_is_no_converted_model(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="source: no such folder"):
        mimicry.load(tmp_path / "nowhere")
    with pytest.raises(ValueError, match=r"source: no config.json in"):
        mimicry.load(tmp_path)
    tiny_model("bert").save_pretrained(tmp_path)
    with pytest.raises(ValueError, match="source must hold a converted model, got a bert in"):
        mimicry.load(tmp_path)


def test_a_config_alone_makes_a_linear_model_with_new_weights(tmp_path: Path) -> None:
    saved(tmp_path)
    config = AutoConfig.from_pretrained(tmp_path)
    assert type(config).from_pretrained(tmp_path).to_json_string() == config.to_json_string()
    new = AutoModelForSequenceClassification.from_config(config)
    assert [type(layer) for layer in attention_layers(new).values()] == [LinearAttention] * 2
