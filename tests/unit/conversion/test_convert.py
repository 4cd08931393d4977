"""Refusals and options of conversion; what holds for every family is in tests/contracts/test_adapters.py."""

import functools

import pytest
import torch
from families import padded_batch, tiny_model
from transformers import AutoConfig, AutoModelForSequenceClassification, BertConfig, BertModel, PreTrainedModel

import mimicry
from mimicry.attention import LinearAttention
from mimicry.attention.capture import attention_layers
from mimicry.attention.feature_maps.hedgehog import HedgehogFeatureMap
from mimicry.attention.shipped import shipped_variants
from mimicry.conversion.seam import attend
from mimicry.conversion.site import REFUSED, adapter_of, supported_families


@pytest.mark.parametrize("attn", shipped_variants())
def test_every_shipped_variant_converts_by_name(attn: str) -> None:
    student = mimicry.convert(tiny_model("bert"), attn)
    assert torch.isfinite(student(**padded_batch()).logits).all()


def test_a_factory_with_options_converts_too() -> None:
    factory = functools.partial(LinearAttention, feature_map=functools.partial(HedgehogFeatureMap, bias=False))
    student = mimicry.convert(tiny_model("bert"), factory)
    assert not any(
        "bias" in name for layer in attention_layers(student).values() for name, _ in layer.named_parameters()
    )


def test_layers_do_not_share_maps() -> None:
    first, second = attention_layers(mimicry.convert(tiny_model("bert"), "t2r")).values()
    assert not {p.data_ptr() for p in first.parameters()} & {p.data_ptr() for p in second.parameters()}


def test_a_converted_model_can_be_converted_again_and_back() -> None:
    model, batch = tiny_model("bert"), padded_batch()
    back = mimicry.canonicalise(mimicry.convert(mimicry.convert(model, "elu"), "hedgehog"))
    torch.testing.assert_close(back(**batch).logits, model(**batch).logits, atol=1e-6, rtol=0)


@pytest.mark.parametrize("training", [True, False])
def test_the_copy_keeps_the_mode_of_the_original(training: bool) -> None:
    student = mimicry.convert(tiny_model("bert").train(training), "hedgehog")
    assert {module.training for module in student.modules()} == {training}


def test_maps_of_a_bfloat16_model_stay_in_float32() -> None:
    student = mimicry.convert(tiny_model("bert").bfloat16(), "hedgehog")
    assert {p.dtype for layer in attention_layers(student).values() for p in layer.parameters()} == {torch.float32}
    assert student(**padded_batch()).logits.dtype == torch.bfloat16


def test_a_model_without_a_head_converts() -> None:
    config = BertConfig(hidden_size=32, num_hidden_layers=1, num_attention_heads=4, intermediate_size=37, vocab_size=99)
    assert len(attention_layers(mimicry.convert(BertModel(config), "hedgehog"))) == 1


def test_an_unknown_variant_is_refused_by_name() -> None:
    with pytest.raises(ValueError, match=r"attn must be one of .*hedgehog.*; got 'hedgehoq'"):
        mimicry.convert(tiny_model("bert"), "hedgehoq")


def untrained(family: str) -> PreTrainedModel:
    sizes = {"hidden_size": 32, "num_hidden_layers": 1, "num_attention_heads": 4, "intermediate_size": 37}
    return AutoModelForSequenceClassification.from_config(AutoConfig.for_model(family, vocab_size=99, **sizes))


def test_an_architecture_without_a_seam_is_refused_by_name() -> None:
    with pytest.raises(ValueError, match=r"no attention seam for architecture 'roformer'; convertible: bert"):
        mimicry.convert(untrained("roformer"), "hedgehog")


@pytest.mark.parametrize("family", ["deberta", "deberta-v2"])
def test_deberta_is_refused_by_name_with_the_reason(family: str) -> None:
    with pytest.raises(ValueError, match=f"architecture '{family}' cannot be converted: disentangled .* added to q.k"):
        mimicry.convert(untrained(family), "hedgehog")


@pytest.mark.parametrize("family", REFUSED)
def test_a_family_that_no_adapter_can_help_is_known_to_the_host_library_and_refused_in_a_line(family: str) -> None:
    with pytest.raises(ValueError, match=f"^model: architecture '{family}' cannot be converted: ") as refused:
        adapter_of(AutoConfig.for_model(family))
    assert REFUSED[family] in str(refused.value)
    assert "\n" not in str(refused.value)
    assert family.replace("-", "_") not in supported_families()


def test_something_that_is_no_host_model_is_refused() -> None:
    with pytest.raises(ValueError, match="must be a Hugging Face model with a config, got Linear"):
        mimicry.convert(torch.nn.Linear(2, 2), "hedgehog")


def test_scores_that_depend_on_more_than_q_and_k_are_refused() -> None:
    model = tiny_model("bert")
    model.config.position_embedding_type = "relative_key"
    with pytest.raises(ValueError, match="position_embedding_type must be absolute"):
        mimicry.convert(model, "hedgehog")


def test_the_seam_refuses_other_masks_and_causality_and_missing_attention() -> None:
    module = mimicry.convert(tiny_model("bert"), "hedgehog").bert.encoder.layer[0].attention.self
    q = torch.randn(2, 4, 5, 8)
    with pytest.raises(ValueError, match="is_causal must be False, as in the converted model, got True"):
        attend(module, q, q, q, None, is_causal=True)
    with pytest.raises(ValueError, match=r"attention_mask must be a \(batch, tokens\) padding mask"):
        attend(module, q, q, q, torch.ones(2, 1, 5, 5))
    with pytest.raises(ValueError, match="carries no converted attention"):
        attend(torch.nn.Identity(), q, q, q, None)


@pytest.mark.parametrize("scaling", [1.0, 0.05])
def test_scores_keep_the_scaling_of_the_host(scaling: float) -> None:
    module = mimicry.canonicalise(tiny_model("bert")).bert.encoder.layer[0].attention.self
    q, k, v = torch.randn(3, 2, 4, 5, 8, dtype=torch.float64)
    expected = (q @ k.transpose(-1, -2) * scaling).softmax(dim=-1) @ v
    torch.testing.assert_close(attend(module, q, k, v, None, scaling=scaling)[0], expected.transpose(1, 2))


def test_grouped_keys_and_values_are_expanded() -> None:
    module = mimicry.convert(tiny_model("bert"), "hedgehog").bert.encoder.layer[0].attention.self
    q, k, v = torch.randn(2, 4, 5, 8), torch.randn(2, 2, 5, 8), torch.randn(2, 2, 5, 8)
    expanded = [x.repeat_interleave(2, dim=1) for x in (k, v)]
    torch.testing.assert_close(attend(module, q, k, v, None)[0], attend(module, q, *expanded, None)[0])
