"""Students with low-rank adapters on disk: merged, or separate in peft's own format."""

from pathlib import Path

import pytest
import torch
from families import batch_for, tiny_model
from peft import LoraConfig, PeftModel, get_peft_model
from safetensors.torch import load_file, save_file
from saved import load, logits
from transformers import AutoModelForCausalLM, PreTrainedModel

import mimicry
from mimicry.attention import LinearAttention
from mimicry.attention.capture import attention_layers
from mimicry.conversion.lora import LoRASettings, add_lora
from mimicry.conversion.seam import ATTRIBUTE

# peft asks the host library by a name that is to go.
pytestmark = pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing` is deprecated:FutureWarning")
FAMILIES = ["llama", "gpt2", "bert"]


def adapted(family: str, dtype: torch.dtype = torch.float32, seed: int = 0) -> PreTrainedModel:
    """A student whose adapters and maps were trained, that is, are no longer what they started as."""
    torch.manual_seed(seed)
    student = add_lora(mimicry.convert(tiny_model(family).to(dtype), "hedgehog"), LoRASettings(r=4))
    for name, weights in student.named_parameters():
        if "lora_" in name or ATTRIBUTE in name:
            torch.nn.init.normal_(weights, std=0.1)
    return student.eval()


def relative_gap(got: torch.Tensor, expected: torch.Tensor) -> float:
    return ((got - expected).abs().max() / expected.abs().max()).item()


# Merging rounds each weight once more: by 2^-24 of it in float32, by 2^-9 in bfloat16.
@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float32, 2e-6), (torch.bfloat16, 3e-2)])
@pytest.mark.parametrize("family", FAMILIES)
def test_merged_adapters_give_the_same_logits_up_to_rounding(
    family: str, dtype: torch.dtype, tolerance: float, tmp_path: Path
) -> None:
    student, batch = adapted(family, dtype), batch_for(family)
    before = {name: value.clone() for name, value in student.state_dict().items()}
    expected = logits(student, batch)
    student.save_pretrained(tmp_path)
    loaded = load(family, tmp_path)
    assert not any("lora" in name or "base_layer" in name for name in loaded.state_dict())
    assert relative_gap(logits(loaded, batch), expected) <= tolerance
    assert relative_gap(logits(mimicry.convert(tiny_model(family).to(dtype), "hedgehog"), batch), expected) > 0.05
    # The student goes on as it was.
    assert all(torch.equal(value, before[name]) for name, value in student.state_dict().items())
    assert torch.equal(logits(student, batch), expected)


@pytest.mark.parametrize("family", FAMILIES)
def test_separate_adapters_on_the_base_give_the_same_logits_to_the_bit(family: str, tmp_path: Path) -> None:
    student, batch = adapted(family), batch_for(family)
    student.save_pretrained(tmp_path, adapters="separate")
    expected = logits(student, batch)
    base = load(family, tmp_path)
    without = logits(base, batch)
    assert relative_gap(without, expected) > 0.05
    by_peft = PeftModel.from_pretrained(load(family, tmp_path), tmp_path / "adapter")
    assert torch.equal(logits(by_peft, batch), expected)
    base.load_adapter(tmp_path / "adapter")
    assert torch.equal(logits(base, batch), expected)
    assert "model.load_adapter" in (tmp_path / "README.md").read_text()
    # Trained maps are the base's: they are in no adapter.
    assert {"lora_A", "lora_B"} == {name.split(".")[-2] for name in load_file(adapter_weights(tmp_path))}
    assert all(isinstance(layer, LinearAttention) for layer in attention_layers(base).values())


def test_an_adapter_folder_loads_with_the_base_it_names(tmp_path: Path) -> None:
    student, batch = adapted("llama"), batch_for("llama")
    student.save_pretrained(tmp_path, adapters="separate")
    loaded = AutoModelForCausalLM.from_pretrained(tmp_path / "adapter")
    assert torch.equal(logits(loaded, batch), logits(student, batch))


def test_a_student_with_a_loaded_adapter_is_saved_whole_again(tmp_path: Path) -> None:
    student, batch = adapted("llama"), batch_for("llama")
    student.save_pretrained(tmp_path / "first", adapters="separate")
    base = load("llama", tmp_path / "first")
    base.load_adapter(tmp_path / "first" / "adapter")
    base.save_pretrained(tmp_path / "separate", adapters="separate")
    base.save_pretrained(tmp_path / "merged")
    again = load("llama", tmp_path / "separate")
    again.load_adapter(tmp_path / "separate" / "adapter")
    assert torch.equal(logits(again, batch), logits(student, batch))
    assert relative_gap(logits(load("llama", tmp_path / "merged"), batch), logits(student, batch)) <= 2e-6


def test_card_and_adapter_are_those_of_what_was_saved_last(tmp_path: Path) -> None:
    student, batch, path = adapted("llama"), batch_for("llama"), tmp_path / "README.md"
    student.save_pretrained(tmp_path)
    assert "load_adapter" not in path.read_text()
    student.save_pretrained(tmp_path, adapters="separate")
    assert "load_adapter" in path.read_text()
    # The base alone is still what the adapter was trained for.
    load("llama", tmp_path).save_pretrained(tmp_path)
    assert "load_adapter" in path.read_text()
    base = load("llama", tmp_path)
    base.load_adapter(tmp_path / "adapter")
    assert torch.equal(logits(base, batch), logits(student, batch))
    student.save_pretrained(tmp_path)
    assert "load_adapter" not in path.read_text()
    assert not (tmp_path / "adapter").exists()


def test_what_else_lies_in_the_folder_of_an_adapter_stays(tmp_path: Path) -> None:
    student = adapted("llama")
    student.save_pretrained(tmp_path, adapters="separate")
    (tmp_path / "adapter" / "notes.txt").write_text("mine")
    student.save_pretrained(tmp_path)
    assert [path.name for path in (tmp_path / "adapter").iterdir()] == ["notes.txt"]
    # An adapter that does not say what it was trained for may be anybody's.
    save_file({"x": torch.zeros(1)}, adapter_weights(tmp_path), metadata={"format": "pt"})
    student.save_pretrained(tmp_path)
    assert adapter_weights(tmp_path).exists()
    assert "load_adapter" not in (tmp_path / "README.md").read_text()


def test_peft_adapts_and_merges_a_loaded_student_as_it_does_its_host(tmp_path: Path) -> None:
    mimicry.convert(tiny_model("llama"), "hedgehog").save_pretrained(tmp_path / "student")
    # Without target_modules peft goes by the model's type.
    wrapped = get_peft_model(load("llama", tmp_path / "student"), LoraConfig(r=2, init_lora_weights=False))
    batch = batch_for("llama")
    expected = logits(wrapped, batch)
    merged = wrapped.merge_and_unload()
    merged.save_pretrained(tmp_path / "merged")
    assert relative_gap(logits(load("llama", tmp_path / "merged"), batch), expected) <= 2e-6


def adapter_weights(folder: Path) -> Path:
    return folder / "adapter" / "adapter_model.safetensors"


def test_an_adapter_for_another_base_is_refused_by_name(tmp_path: Path) -> None:
    adapted("llama").save_pretrained(tmp_path / "one", adapters="separate")
    adapted("llama", seed=1).save_pretrained(tmp_path / "two", adapters="separate")
    two = load("llama", tmp_path / "two")
    with pytest.raises(ValueError, match=r"adapter: .*one/adapter was trained for another model \(.*one\) than .*two"):
        two.load_adapter(tmp_path / "one" / "adapter")
    assert not any("lora" in name for name in two.state_dict())
    # Rounded to bfloat16 the base is still the same model.
    load("llama", tmp_path / "one", dtype=torch.bfloat16).load_adapter(tmp_path / "one" / "adapter")


def test_an_adapter_of_unknown_base_is_refused_where_it_does_not_fit(tmp_path: Path) -> None:
    adapted("llama").save_pretrained(tmp_path, adapters="separate")
    # As peft itself writes it.
    save_file(load_file(adapter_weights(tmp_path)), adapter_weights(tmp_path), metadata={"format": "pt"})
    load("llama", tmp_path).load_adapter(tmp_path / "adapter")
    wider = mimicry.convert(tiny_model("llama", hidden_size=64), "hedgehog")
    with pytest.raises(ValueError, match=r"does not fit .*: model.layers.0.self_attn.\w+ is not of its size"):
        wider.load_adapter(tmp_path / "adapter")
    with pytest.raises(ValueError, match=r"does not fit .*: model.layers.0.self_attn.\w+ is not of its size"):
        mimicry.convert(tiny_model("gpt2"), "hedgehog").load_adapter(tmp_path / "adapter")


def test_half_an_adapter_is_refused(tmp_path: Path) -> None:
    adapted("llama").save_pretrained(tmp_path, adapters="separate")
    base, weights = load("llama", tmp_path), adapter_weights(tmp_path)
    weights.write_bytes(weights.read_bytes()[:100])
    with pytest.raises(ValueError, match=r"adapter_model.safetensors is cut off"):
        base.load_adapter(tmp_path / "adapter")
    weights.unlink()
    with pytest.raises(ValueError, match=r"adapter_model.safetensors is missing"):
        base.load_adapter(tmp_path / "adapter")
    (tmp_path / "adapter" / "adapter_config.json").write_text("[]")
    with pytest.raises(ValueError, match=r"adapter: .*adapter_config.json must hold a mapping, got \[\]"):
        base.load_adapter(tmp_path / "adapter")
    (tmp_path / "adapter" / "adapter_config.json").unlink()
    with pytest.raises(ValueError, match=r"adapter: .*adapter_config.json cannot be read"):
        base.load_adapter(tmp_path / "adapter")


@pytest.mark.usefixtures("without_shape_hook")
def test_a_student_without_adapters_has_none_to_be_separate(tmp_path: Path) -> None:
    student = mimicry.convert(tiny_model("bert"), "elu")
    with pytest.raises(ValueError, match="adapters=separate needs a model with one adapter, got none"):
        student.save_pretrained(tmp_path, adapters="separate")
    with pytest.raises(ValueError, match="adapters must be merged or separate, got 'apart'"):
        student.save_pretrained(tmp_path, adapters="apart")


def test_modules_that_peft_trains_whole_are_refused(tmp_path: Path) -> None:
    student = mimicry.convert(tiny_model("bert"), "elu")
    wrapped = get_peft_model(student, LoraConfig(target_modules=["query"], modules_to_save=["classifier"]))
    with pytest.raises(ValueError, match="classifier is trained whole by peft and cannot be saved"):
        wrapped.base_model.model.save_pretrained(tmp_path)
