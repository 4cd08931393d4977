"""The encoder pools what is no padding, and compares two sequences when it has two towers."""

import math

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from mimicry.attention import SoftmaxAttention
from mimicry.attention.capture import attention_layers, capture
from mimicry.attention.shipped import load_variant, shipped_variants
from mimicry.models import Encoder, EncoderSizes

SIZES = EncoderSizes(num_layers=2, hidden_size=16, num_heads=2, mlp_size=32, init_std=0.3)
VOCAB, LENGTH, LABELS = 11, 24, 3


def build(attn: str = "softmax", towers: int = 1, **changes: object) -> Encoder:
    sizes = EncoderSizes(**(vars(SIZES) | changes))
    return Encoder(sizes, VOCAB, LENGTH, LABELS, load_variant(attn), towers).eval()


def ids(*shape: int) -> Tensor:
    return torch.randint(VOCAB, shape or (3, 9))


def head(model: Encoder, joined: Tensor) -> Tensor:
    hidden = (joined @ model.head_in.weight.T + model.head_in.bias).clamp(min=0)
    return hidden @ model.head_out.weight.T + model.head_out.bias


def test_mean_pooling_averages_the_states_that_are_no_padding() -> None:
    model, tokens = build().double(), ids(2, 9)
    mask = torch.arange(9) < torch.tensor([[9], [4]])
    states = model.trunk(tokens, mask)
    expected = head(model, torch.stack([states[0].mean(0), states[1, :4].mean(0)]))
    torch.testing.assert_close(model(tokens, mask).logits, expected)
    torch.testing.assert_close(model(tokens, mask.long()).logits, expected)


def test_class_pooling_takes_the_state_of_a_token_in_front() -> None:
    model, tokens = build(pooling="cls").double(), ids(2, 9)
    states = model.trunk(F.pad(tokens, (1, 0), value=VOCAB))
    torch.testing.assert_close(model(tokens).logits, head(model, states[:, 0]))
    # It counts neither as a token of the vocabulary nor of the sequence.
    assert model(ids(1, LENGTH)).logits.shape == (1, LABELS)
    with pytest.raises(ValueError, match=r"^input_ids must have at most"):
        model(ids(1, LENGTH + 1))


@pytest.mark.parametrize("attn", shipped_variants())
@pytest.mark.parametrize("pooling", ["mean", "cls"])
@pytest.mark.parametrize("positions", ["rotary", "learnt"])
def test_padding_changes_nothing(attn: str, pooling: str, positions: str) -> None:
    model, tokens = build(attn, pooling=pooling, positions=positions).double(), ids(1, 9)
    padded = torch.cat([tokens, ids(1, 5)], dim=1)
    with torch.no_grad():
        expected, masked = model(tokens).logits, model(padded, torch.arange(14)[None] < 9).logits
        torch.testing.assert_close(masked, expected)
        assert not torch.allclose(model(padded).logits, expected)


def test_a_sequence_of_padding_alone_has_finite_logits() -> None:
    mask = torch.tensor([[True] * 9, [False] * 9])
    assert build("hedgehog")(ids(2, 9), mask).logits.isfinite().all()


def test_two_towers_compare_the_pooled_states_of_both_sequences() -> None:
    model, first, second = build(towers=2).double(), ids(2, 9), ids(2, 5)
    mask = torch.arange(9) < torch.tensor([[9], [4]])
    a = torch.stack([model.trunk(first[:1])[0].mean(0), model.trunk(first[1:, :4])[0].mean(0)])
    b = model.trunk(second).mean(1)
    out = model(first, mask, second, torch.ones(2, 5)).logits
    torch.testing.assert_close(out, head(model, torch.cat([a, b, a * b, a - b], dim=-1)))


def test_the_loss_is_the_cross_entropy_of_the_classes() -> None:
    model, tokens, labels = build().double(), ids(), torch.tensor([0, 2, 1])
    loss, logits = model(input_ids=tokens, labels=labels)
    expected = (logits.exp().sum(-1).log() - logits[torch.arange(3), labels]).mean()
    torch.testing.assert_close(loss, expected)
    assert model(tokens).loss is None


def test_tokens_see_later_ones_too() -> None:
    model, tokens = build().double(), ids(1, 9)
    other = tokens.clone()
    other[0, -1] = (other[0, -1] + 1) % VOCAB
    assert (model.trunk(tokens)[:, 0] != model.trunk(other)[:, 0]).any()
    assert not any(layer.dims.causal for layer in attention_layers(model).values())


def test_captured_layers_carry_the_key_mask() -> None:
    model, mask = build(pooling="cls"), torch.arange(9) < torch.tensor([[9], [4]])
    with capture(model) as seen:
        model(ids(2, 9), mask)
    for captured in seen.values():
        assert torch.equal(captured.key_mask, F.pad(mask, (1, 0), value=True))


@pytest.mark.parametrize("attn", shipped_variants())
@pytest.mark.parametrize("towers", [1, 2])
def test_every_weight_gets_a_gradient(attn: str, towers: int) -> None:
    model = build(attn, towers, pooling="cls")
    pair = {"pair_input_ids": ids(2, 7)} if towers == 2 else {}
    model(ids(2, 9), labels=torch.tensor([0, 2]), **pair).loss.backward()
    for name, parameter in model.named_parameters():
        assert parameter.grad is not None, name
        assert parameter.grad.isfinite().all(), name


def test_a_fresh_model_knows_nothing() -> None:
    model = Encoder(EncoderSizes(2, 64, 2, 128), VOCAB, LENGTH, 10, SoftmaxAttention)
    assert model(ids(8, 9), labels=torch.arange(8)).loss.item() == pytest.approx(math.log(10), abs=0.05)


@pytest.mark.parametrize(("towers", "given"), [(1, 2), (2, 1)])
def test_as_many_sequences_as_towers_are_asked_for(towers: int, given: int) -> None:
    pair = {"pair_input_ids": ids()} if given == 2 else {}
    message = rf"^input_ids must be of {towers} sequences with towers = {towers}, got {given}$"
    with pytest.raises(ValueError, match=message):
        build(towers=towers)(ids(), **pair)


def test_impossible_classifiers_are_refused() -> None:
    with pytest.raises(ValueError, match=r"^num_labels must be >= 2, got 1$"):
        Encoder(SIZES, VOCAB, LENGTH, 1, SoftmaxAttention)
    with pytest.raises(ValueError, match=r"^towers must be 1 or 2, got 3$"):
        Encoder(SIZES, VOCAB, LENGTH, 2, SoftmaxAttention, towers=3)
    with pytest.raises(ValueError, match=r"^attn: its max_length must be >= the 513 tokens of a sequence, got 512$"):
        Encoder(EncoderSizes(1, 16, 2, 32, pooling="cls"), VOCAB, 512, 2, load_variant("cosformer"))


@pytest.mark.usefixtures("without_shape_hook")
def test_unknown_pooling_is_refused() -> None:
    with pytest.raises(ValueError, match=r"^pooling must be one of mean, cls, got 'max'$"):
        EncoderSizes(1, 4, 1, 4, pooling="max")
