"""What saving promises for every model family: the same model again, to the bit, and linear."""

import json
from pathlib import Path

import pytest
import torch
from families import FAMILIES, NUM_LAYERS, batch_for, tiny_model
from saved import auto_class, load, logits

import mimicry
from mimicry.attention import LinearAttention, SoftmaxAttention, WindowLinearAttention
from mimicry.attention.capture import attention_layers
from mimicry.conversion.cache import RecurrentLayer
from mimicry.conversion.seam import ATTRIBUTE

every_family = pytest.mark.parametrize("family", FAMILIES)


@every_family
def test_a_saved_student_comes_back_linear_and_equal_to_the_bit(family: str, tmp_path: Path) -> None:
    model, batch = tiny_model(family), batch_for(family)
    student = mimicry.convert(model, "hedgehog")
    for layer in attention_layers(student).values():
        for weights in layer.parameters():
            torch.nn.init.normal_(weights, std=0.5)
    student.save_pretrained(tmp_path)
    loaded = load(family, tmp_path)
    assert type(loaded) is type(student)
    assert isinstance(loaded, type(model))
    assert [type(layer) for layer in attention_layers(loaded).values()] == [LinearAttention] * NUM_LAYERS
    assert not loaded.training
    before, after = student.state_dict(), loaded.state_dict()
    assert before.keys() == after.keys()
    assert all(torch.equal(after[name], value) for name, value in before.items())
    expected = logits(student, batch)
    assert torch.equal(logits(loaded, batch), expected)
    assert (expected - logits(model, batch)).abs().max() > 1e-3
    # What is on disk says of itself that it is ours; what is in memory remains the host's.
    config = json.loads((tmp_path / "config.json").read_text())
    assert config["model_type"] == "mimicry"
    assert config["architectures"] == [f"Mimicry{type(model).__name__}"]
    assert loaded.config.model_type == model.config.model_type


@every_family
def test_a_bfloat16_student_comes_back_equal_to_the_bit_with_maps_in_float32(family: str, tmp_path: Path) -> None:
    tiny_model(family).save_pretrained(tmp_path / "host")
    # Cast after loading, tables of the host's own would lose digits that a loaded model has.
    student = mimicry.convert(load(family, tmp_path / "host", dtype=torch.bfloat16), "hedgehog")
    student.save_pretrained(tmp_path / "student")
    loaded, batch = load(family, tmp_path / "student"), batch_for(family)
    assert {p.dtype for name, p in loaded.named_parameters() if ATTRIBUTE not in name} == {torch.bfloat16}
    assert {p.dtype for name, p in loaded.named_parameters() if ATTRIBUTE in name} == {torch.float32}
    assert torch.equal(logits(loaded, batch), logits(student, batch))


@pytest.mark.parametrize("family", ["bert", "vit", "llama"])
def test_each_layer_comes_back_as_what_it_was(family: str, tmp_path: Path) -> None:
    student, batch = mimicry.convert(tiny_model(family), {"1": "window_hedgehog"}), batch_for(family)
    student.save_pretrained(tmp_path)
    loaded = load(family, tmp_path)
    assert [type(layer) for layer in attention_layers(loaded).values()] == [SoftmaxAttention, WindowLinearAttention]
    assert torch.equal(logits(loaded, batch), logits(student, batch))


@pytest.mark.parametrize("family", ["llama", "gpt2"])
def test_a_loaded_decoder_generates_the_same_tokens_from_recurrent_states(family: str, tmp_path: Path) -> None:
    student = mimicry.convert(tiny_model(family), "hedgehog")
    student.save_pretrained(tmp_path)
    loaded, prompt = load(family, tmp_path), torch.randint(5, 99, (2, 6))
    options = {"max_new_tokens": 12, "do_sample": False, "return_dict_in_generate": True}
    expected, got = student.generate(prompt, **options), loaded.generate(prompt, **options)
    assert torch.equal(got.sequences, expected.sequences)
    assert [type(layer) for layer in got.past_key_values.layers] == [RecurrentLayer] * NUM_LAYERS


@pytest.mark.parametrize("family", ["roberta", "deit", "gpt_neox", "mixtral"])
def test_a_student_of_a_model_from_disk_is_saved_under_the_names_of_the_hosts_files(
    family: str, tmp_path: Path
) -> None:
    # The host library renames some weights between disk and memory, going by the type and class of a model.
    tiny_model(family).save_pretrained(tmp_path / "host")
    student, batch = mimicry.convert(load(family, tmp_path / "host"), "hedgehog"), batch_for(family)
    student.save_pretrained(tmp_path / "student")
    names = [set(_names(tmp_path / folder)) for folder in ("host", "student")]
    assert {name for name in names[1] - names[0] if ATTRIBUTE not in name} == set()
    assert names[0] <= names[1]
    assert torch.equal(logits(load(family, tmp_path / "student"), batch), logits(student, batch))


@pytest.mark.parametrize("family", ["bert", "vit", "llama"])
def test_one_call_loads_a_student_whatever_its_head(family: str, tmp_path: Path) -> None:
    student, batch = mimicry.convert(tiny_model(family), "taylor"), batch_for(family)
    student.save_pretrained(tmp_path)
    loaded = mimicry.load(tmp_path)
    assert type(loaded) is type(auto_class(family).from_pretrained(tmp_path))
    assert torch.equal(logits(loaded, batch), logits(student, batch))


def _names(folder: Path) -> list[str]:
    from safetensors import safe_open

    with safe_open(folder / "model.safetensors", framework="pt") as file:
        return list(file.keys())
