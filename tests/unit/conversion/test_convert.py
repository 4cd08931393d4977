"""Refusals and options of conversion; what holds for every family is in tests/contracts/test_adapters.py."""

import copy
import functools
from typing import Any

import pytest
import torch
from families import DECODERS, batch_for, left_padded_batch, padded_batch, tiny_model
from transformers import AutoConfig, AutoModelForSequenceClassification, BertConfig, BertModel, PreTrainedModel

import mimicry
from mimicry.attention import LinearAttention
from mimicry.attention.capture import attention_layers, capture
from mimicry.attention.feature_maps.hedgehog import HedgehogFeatureMap
from mimicry.attention.shipped import shipped_variants
from mimicry.conversion.seam import attend


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


@pytest.mark.usefixtures("without_shape_hook")
@pytest.mark.parametrize(
    ("attn", "message"),
    [
        (None, r"^attn must be a variant's name, a factory, or a mapping of layers to these, got None$"),
        (3, r"^attn must be a variant's name, a factory, .* got 3$"),
        (["hedgehog", "elu"], r"^attn must be a variant's name, a factory, .* got \['hedgehog', 'elu'\]$"),
        ({"0": "elu", "1": None}, r"^attn must be a variant's name, a factory, .* got None$"),
        (
            lambda d: None,
            r"^attn must be a factory that takes dims, got <function .*missing a required argument: 'd'\)$",
        ),
    ],
)
def test_what_is_no_variant_is_refused_before_the_model_is_copied(
    attn: Any, message: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = tiny_model("bert")
    monkeypatch.setattr(copy, "deepcopy", lambda *_: pytest.fail("the model was copied"))
    with pytest.raises(ValueError, match=message):
        mimicry.convert(model, attn)


@pytest.mark.usefixtures("without_shape_hook")
def test_a_factory_of_something_else_is_refused() -> None:
    with pytest.raises(ValueError, match=r"^attn must be a factory of an Attention, got one of Linear: <function"):
        mimicry.convert(tiny_model("bert"), lambda dims: torch.nn.Linear(2, 2))


def untrained(family: str) -> PreTrainedModel:
    sizes = {"hidden_size": 32, "num_hidden_layers": 1, "num_attention_heads": 4, "intermediate_size": 37}
    return AutoModelForSequenceClassification.from_config(AutoConfig.for_model(family, vocab_size=99, **sizes))


def test_an_architecture_without_a_seam_is_refused_by_name() -> None:
    with pytest.raises(ValueError, match=r"no attention seam for architecture 'roformer'; convertible: bert"):
        mimicry.convert(untrained("roformer"), "hedgehog")


def test_something_that_is_no_host_model_is_refused() -> None:
    with pytest.raises(ValueError, match="must be a Hugging Face model with a config, got Linear"):
        mimicry.convert(torch.nn.Linear(2, 2), "hedgehog")


@pytest.mark.parametrize("family", ["bert", "llama", "vit"])
def test_attention_weights_are_refused_as_outputs_and_can_be_had_as_the_message_says(family: str) -> None:
    model, batch = tiny_model(family), batch_for(family)
    student = mimicry.convert(model, "hedgehog")
    for part in (student, copy.deepcopy(student), mimicry.convert(student, "elu"), student.base_model):
        with pytest.raises(
            ValueError, match=r"^output_attentions must be False for a converted model.*capture"
        ) as refused:
            part(**batch, output_attentions=True)
        assert "\n" not in str(refused.value)
    with torch.no_grad(), capture(student) as captured:
        student(**batch, output_attentions=False)
    for name, layer in attention_layers(student).items():
        seen = captured[name]
        weights = layer.weights(seen.q, seen.k, seen.key_mask)
        torch.testing.assert_close(weights @ seen.v, seen.outputs, atol=1e-5, rtol=1e-4)
    student.set_attn_implementation("eager")
    assert len(student(**batch, output_attentions=True).attentions) == 2
    assert len(model(**batch).logits) == 3


def test_attention_weights_of_generation_are_refused_too() -> None:
    student = mimicry.convert(tiny_model("llama"), "hedgehog")
    with pytest.raises(ValueError, match=r"^output_attentions must be False"):
        student.generate(torch.tensor([[5, 6]]), max_new_tokens=2, output_attentions=True, return_dict_in_generate=True)


def test_a_class_whose_attention_the_host_library_keeps_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    # As for classes whose source it cannot read, such as those typed at a prompt.
    monkeypatch.setattr(PreTrainedModel, "_can_set_attn_implementation", classmethod(lambda _: False))
    with pytest.raises(ValueError, match="does not swap the attention of BertForSequenceClassification, a class"):
        mimicry.convert(tiny_model("bert"), "hedgehog")


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


@pytest.mark.parametrize(
    ("family", "options"),
    [
        ("gpt2", {"scale_attn_by_inverse_layer_idx": True}),
        ("gpt2", {"scale_attn_weights": False}),
        ("gpt2", {"reorder_and_upcast_attn": True}),
        ("gpt_bigcode", {"scale_attn_weights": False}),
        ("gpt_bigcode", {"multi_query": False}),
        ("bert", {"is_decoder": True}),
        ("llama", {"is_causal": False}),
        # Windows that no text of the model can exceed, or that no layer heeds.
        ("mistral", {"sliding_window": 64}),
        ("phi3", {"sliding_window": 100}),
        ("qwen2", {"sliding_window": 4, "use_sliding_window": False}),
    ],
)
def test_options_of_a_family_that_change_its_attention_are_honoured(family: str, options: dict[str, object]) -> None:
    batch = left_padded_batch() if family in DECODERS else padded_batch()
    model = tiny_model(family, **options).double()
    real = batch["attention_mask"].bool() if family in DECODERS else slice(None)
    with torch.no_grad():
        theirs, ours = model(**batch).logits[real], mimicry.canonicalise(model)(**batch).logits[real]
    assert (theirs - ours).abs().max() <= 1e-12


def test_grouped_keys_and_values_are_expanded() -> None:
    module = mimicry.convert(tiny_model("bert"), "hedgehog").bert.encoder.layer[0].attention.self
    q, k, v = torch.randn(2, 4, 5, 8), torch.randn(2, 2, 5, 8), torch.randn(2, 2, 5, 8)
    expanded = [x.repeat_interleave(2, dim=1) for x in (k, v)]
    torch.testing.assert_close(attend(module, q, k, v, None)[0], attend(module, q, *expanded, None)[0])


def test_texts_packed_into_one_row_are_refused() -> None:
    student, ids = mimicry.convert(tiny_model("llama"), "hedgehog"), torch.randint(5, 99, (2, 8))
    one, two = torch.arange(8).expand(2, -1), torch.tensor([[0, 1, 2, 3, 4, 5, 6, 7], [0, 1, 2, 3, 4, 0, 1, 2]])
    with torch.no_grad():
        torch.testing.assert_close(student(ids, position_ids=one).logits, student(ids).logits)
        with pytest.raises(ValueError, match="hides earlier ones of 8 tokens from later ones"):
            student(ids, position_ids=two, use_cache=False)


def test_a_text_longer_than_a_window_that_was_set_later_is_refused() -> None:
    student = mimicry.convert(tiny_model("mistral", sliding_window=64), "hedgehog")
    student.config.sliding_window = 6
    with torch.no_grad():
        student(torch.randint(5, 99, (1, 6)), use_cache=False)
        with pytest.raises(ValueError, match="hides earlier ones of 7 tokens from later ones"):
            student(torch.randint(5, 99, (1, 7)), use_cache=False)


def test_rotated_states_in_float32_are_cast_to_the_values_dtype_under_autocast() -> None:
    model = mimicry.canonicalise(tiny_model("llama"))
    host, batch = tiny_model("llama"), padded_batch()
    host.load_state_dict(model.state_dict(), strict=False)
    with torch.autocast("cpu", dtype=torch.bfloat16), torch.no_grad():
        theirs, ours = host(**batch).logits, model(**batch).logits
    kept = batch["attention_mask"].bool()
    # One rounding of bf16 at the size of the logits.
    torch.testing.assert_close(ours[kept], theirs[kept], rtol=0, atol=2**-8 * float(theirs.abs().max()))
