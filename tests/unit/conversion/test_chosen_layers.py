"""Which layers are converted, and to what."""

import copy
from pathlib import Path

import pytest
import torch
from families import padded_batch, tiny_model
from saved import logits

import mimicry
from mimicry.attention import Attention, LinearAttention, SoftmaxAttention
from mimicry.attention.capture import attention_layers, capture
from mimicry.conversion.layers import assign_layers, check_layers, choose_layers


@pytest.mark.parametrize(
    ("layers", "chosen"),
    [
        ("all", [0, 1, 2, 3, 4, 5]),
        ("every:1", [0, 1, 2, 3, 4, 5]),
        ("every:2", [0, 2, 4]),
        ("every:4", [0, 4]),
        ("every:9", [0]),
        ("3", [3]),
        (3, [3]),
        ("0-2", [0, 1, 2]),
        ("5-5", [5]),
        ("0,4-5", [0, 4, 5]),
        ("4-5,1", [1, 4, 5]),
    ],
)
def test_a_spec_names_layers_by_depth(layers: str | int, chosen: list[int]) -> None:
    check_layers(layers)
    assert choose_layers(layers, depth=6) == chosen


@pytest.mark.parametrize(
    ("layers", "rule"),
    [
        ("", "must be all, every:N or a list"),
        ("none", "must be all, every:N or a list"),
        ("0-", "must be all, every:N or a list"),
        ("-1", "must be all, every:N or a list"),
        (-1, "must be all, every:N or a list"),
        ("0,,2", "must be all, every:N or a list"),
        ("0;2", "must be all, every:N or a list"),
        ("every:0", "must be all, every:N or a list"),
        ("every:", "must be all, every:N or a list"),
        ("٣", "must be all, every:N or a list"),
        ("0\n", "must be all, every:N or a list"),
        ("4-2", "must be ranges from low to high"),
        ("0-3,2", "must name each layer once"),
        ("2,2", "must name each layer once"),
    ],
)
def test_a_bad_spec_is_refused_without_a_model(layers: str | int, rule: str) -> None:
    with pytest.raises(ValueError, match=f"^layers {rule}.*got ") as refused:
        check_layers(layers)
    assert str(refused.value).endswith(f"got {layers!r}")
    with pytest.raises(ValueError, match=f"^layers {rule}"):
        choose_layers(layers, depth=6)


@pytest.mark.parametrize("layers", ["6", "0-6", "0,99", "0-99999999999999"])
def test_a_layer_that_the_model_does_not_have_is_refused(layers: str) -> None:
    check_layers(layers)
    with pytest.raises(ValueError, match=f"^layers must be within 0-5, those of the model, got '{layers}'"):
        choose_layers(layers, depth=6)


def test_variants_by_layer_leave_other_layers_as_they_are() -> None:
    assert assign_layers({"0-1": "hedgehog", "3": "elu"}, "all", depth=5) == [
        "hedgehog",
        "hedgehog",
        None,
        "elu",
        None,
    ]


def test_variants_by_layer_that_overlap_or_are_chosen_twice_are_refused() -> None:
    with pytest.raises(ValueError, match=r"attn must name each layer once, got layer 0 in \['0-2', 'every:2'\]"):
        assign_layers({"0-2": "hedgehog", "every:2": "elu"}, "all", depth=4)
    with pytest.raises(ValueError, match="layers must be all where attn has variants by layer, got '0'"):
        assign_layers({"0-2": "hedgehog"}, "0", depth=4)
    with pytest.raises(ValueError, match="attn must name a variant for some layer, got an empty mapping"):
        assign_layers({}, "all", depth=4)


def kinds(model: torch.nn.Module) -> list[type[Attention]]:
    return [type(layer) for layer in attention_layers(model).values()]


def test_layers_that_are_not_chosen_compute_softmax_on_what_the_earlier_ones_made() -> None:
    teacher = mimicry.canonicalise(tiny_model("bert", num_hidden_layers=3))
    student = mimicry.convert(teacher, "hedgehog", layers="1")
    assert kinds(student) == [SoftmaxAttention, LinearAttention, SoftmaxAttention]
    batch = padded_batch()
    with torch.no_grad(), capture(teacher) as theirs, capture(student) as ours:
        assert not torch.equal(teacher(**batch).logits, student(**batch).logits)
    same = [
        torch.equal(their.q, our.q) and torch.equal(their.k, our.k)
        for their, our in zip(theirs.values(), ours.values(), strict=True)
    ]
    assert same == [True, True, False]


def test_a_model_converts_with_variants_by_layer_and_is_not_touched() -> None:
    model = tiny_model("bert", num_hidden_layers=3)
    before = copy.deepcopy(model.state_dict())
    student = mimicry.convert(model, {"0": "hedgehog", "2": SoftmaxAttention})
    assert kinds(student) == [LinearAttention, SoftmaxAttention, SoftmaxAttention]
    assert model.state_dict().keys() == before.keys()


@pytest.mark.parametrize("share_weights", [False, True])
def test_layers_of_a_student_that_are_not_chosen_keep_their_trained_maps(share_weights: bool, tmp_path: Path) -> None:
    student = mimicry.convert(tiny_model("llama", num_hidden_layers=3), {"0": "hedgehog", "1": "t2r"})
    for parameter in attention_parameters(student, layer=0):
        torch.nn.init.normal_(parameter)
    student.requires_grad_(not share_weights)
    again = mimicry.convert(student, "elu", layers="1", share_weights=share_weights)
    assert kinds(again) == [LinearAttention, LinearAttention, SoftmaxAttention]
    kept, was = attention_parameters(again, layer=0), attention_parameters(student, layer=0)
    assert all(torch.equal(a, b) and a.data_ptr() != b.data_ptr() for a, b in zip(kept, was, strict=True))
    assert kept
    assert not attention_parameters(again, layer=1)
    assert {layers: node["_target_"] for layers, node in again.config.mimicry["attention"].items()} == {
        "0": "mimicry.attention.LinearAttention",
        "1": "mimicry.attention.LinearAttention",
        "2": "mimicry.attention.SoftmaxAttention",
    }
    again.save_pretrained(tmp_path)
    batch = padded_batch()
    assert torch.equal(logits(mimicry.load(tmp_path), batch), logits(again, batch))
    # Softmax everywhere is still one call away.
    assert kinds(mimicry.canonicalise(student)) == [SoftmaxAttention] * 3


def test_a_kept_attention_that_cannot_be_described_still_says_so(tmp_path: Path) -> None:
    student = mimicry.convert(tiny_model("bert"), lambda dims: SoftmaxAttention(dims))
    again = mimicry.convert(student, "elu", layers="1")
    assert kinds(again) == [SoftmaxAttention, LinearAttention]
    with pytest.raises(ValueError, match=r"attention of layers 0: .*<lambda> is no class of mimicry"):
        again.save_pretrained(tmp_path)


def attention_parameters(model: torch.nn.Module, layer: int) -> list[torch.nn.Parameter]:
    return list(list(attention_layers(model).values())[layer].parameters())


def test_a_bad_choice_is_refused_before_the_model_is_copied(monkeypatch: pytest.MonkeyPatch) -> None:
    model = tiny_model("bert")
    monkeypatch.setattr(copy, "deepcopy", lambda _: pytest.fail("the model was copied"))
    with pytest.raises(ValueError, match="layers must be within 0-1"):
        mimicry.convert(model, "hedgehog", layers="0-5")
    with pytest.raises(ValueError, match="attn must be one of"):
        mimicry.convert(model, {"0": "hedgehoq"})
