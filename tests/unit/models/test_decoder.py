"""The decoder equals a plain float64 one, and starts as GPT-2 does."""

import itertools
import math

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mimicry.analysis import attention_entropy
from mimicry.attention import LinearAttention, SoftmaxAttention
from mimicry.attention.capture import attention_layers, capture
from mimicry.attention.shipped import load_variant, shipped_variants
from mimicry.models import Decoder, DecoderSizes
from mimicry.models.convolution import ShortConvolution
from mimicry.models.trunk import Block

SIZES = DecoderSizes(num_layers=2, hidden_size=16, num_heads=2, mlp_size=32, init_std=0.3)
VOCAB, LENGTH = 11, 24


def build(attn: str = "softmax", **changes: object) -> Decoder:
    sizes = DecoderSizes(**(vars(SIZES) | changes))
    return Decoder(sizes, VOCAB, LENGTH, load_variant(attn)).eval()


def ids(*shape: int) -> Tensor:
    return torch.randint(VOCAB, shape or (3, 9))


def turned(x: Tensor) -> Tensor:
    """Rotary positions by their definition, as multiplication by e^(i t theta) of complex pairs."""
    d, n = x.shape[-1], x.shape[-2]
    theta = 10_000.0 ** (-2 * torch.arange(d // 2, dtype=torch.float64) / d)
    angle = torch.arange(n, dtype=torch.float64)[:, None] * theta
    pairs = torch.complex(x[..., : d // 2], x[..., d // 2 :]) * torch.polar(torch.ones_like(angle), angle)
    return torch.cat([pairs.real, pairs.imag], dim=-1)


def written_out(model: Decoder, tokens: Tensor, positions: str, conv_size: int, heads: int = 2) -> Tensor:
    """Logits, one head and one plain product after another."""
    trunk = model.trunk

    def normed(x: Tensor, norm: nn.LayerNorm) -> Tensor:
        centred = x - x.mean(-1, keepdim=True)
        return centred / (centred.square().mean(-1, keepdim=True) + 1e-5).sqrt() * norm.weight + norm.bias

    def gelu(x: Tensor) -> Tensor:
        return 0.5 * x * (1 + torch.tanh(math.sqrt(2 / math.pi) * (x + 0.044715 * x**3)))

    x = trunk.tokens.weight[tokens]
    n, width = x.shape[1:]
    if positions == "learnt":
        x = x + trunk.positions.weight[:n]
    for block in trunk.blocks:
        mixed = normed(x, block.attention_norm)
        if conv_size > 1:
            taps = block.convolution.weight
            mixed = torch.stack(
                [sum(taps[i] * mixed[:, t - i] for i in range(min(t + 1, conv_size))) for t in range(n)], dim=1
            )
        projected = mixed @ block.qkv.weight.T + block.qkv.bias
        outs = []
        for head in range(heads):
            at = slice(head * width // heads, (head + 1) * width // heads)
            q, k, v = (part[..., at] for part in projected.split(width, dim=-1))
            if positions == "rotary":
                q, k = turned(q), turned(k)
            scores = q @ k.mT / math.sqrt(width / heads)
            scores = scores.masked_fill(torch.ones(n, n, dtype=torch.bool).triu(1), -torch.inf)
            outs.append(scores.softmax(-1) @ v)
        x = x + torch.cat(outs, dim=-1) @ block.attention_out.weight.T + block.attention_out.bias
        inner = gelu(normed(x, block.mlp_norm) @ block.mlp_in.weight.T + block.mlp_in.bias)
        x = x + inner @ block.mlp_out.weight.T + block.mlp_out.bias
    return normed(x, trunk.norm) @ trunk.tokens.weight.T


@pytest.mark.parametrize("positions", ["rotary", "learnt"])
@pytest.mark.parametrize("conv_size", [1, 3, 12])
def test_logits_equal_the_written_out_transformer(positions: str, conv_size: int) -> None:
    model, tokens = build(positions=positions, conv_size=conv_size).double(), ids()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    # The tables of angles are float32.
    tolerance = 1e-6 if positions == "rotary" else 1e-12
    expected = written_out(model, tokens, positions, conv_size)
    torch.testing.assert_close(model(tokens).logits, expected, rtol=tolerance, atol=tolerance)


def test_the_loss_is_the_mean_over_scored_positions_of_what_the_position_before_predicts() -> None:
    model, tokens = build().double(), ids(3, 9)
    labels = torch.where(torch.rand(3, 9) < 0.5, tokens, -100)
    # A label need not be the token that stands there.
    labels[0, 4] = (tokens[0, 4] + 1) % VOCAB
    # Nothing comes before the first token.
    labels[:, 0] = 5
    loss, logits = model(tokens, labels=labels)
    scored = [
        -logits[row, at - 1].log_softmax(-1)[labels[row, at]]
        for row, at in itertools.product(range(3), range(1, 9))
        if labels[row, at] != -100
    ]
    torch.testing.assert_close(loss, torch.stack(scored).mean())
    assert model(tokens).loss is None


@pytest.mark.parametrize("attn", shipped_variants())
@pytest.mark.parametrize(("positions", "conv_size"), [("rotary", 1), ("learnt", 1), ("rotary", 3)])
def test_later_tokens_change_no_earlier_logits(attn: str, positions: str, conv_size: int) -> None:
    model, tokens = build(attn, positions=positions, conv_size=conv_size).double(), ids(2, 20)
    other = tokens.clone()
    other[:, 12:] = (other[:, 12:] + 1) % VOCAB
    with torch.no_grad():
        logits, changed, shorter = (model(x).logits for x in (tokens, other, tokens[:, :12]))
    torch.testing.assert_close(logits[:, :12], changed[:, :12])
    torch.testing.assert_close(logits[:, :12], shorter)
    assert (logits[:, 12:] != changed[:, 12:]).all()


@pytest.mark.parametrize("attn", ["softmax", "hedgehog"])
def test_padding_in_front_is_not_seen_through_a_mask(attn: str) -> None:
    model, tokens = build(attn).double(), ids(1, 6)
    padded, mask = F.pad(tokens, (3, 0), value=7), F.pad(torch.ones(1, 6), (3, 0)).long()
    other = F.pad(tokens, (3, 0), value=2)
    with torch.no_grad():
        with_mask = [model(x, attention_mask=mask).logits[:, 3:] for x in (padded, other)]
        torch.testing.assert_close(*with_mask)
        assert not torch.allclose(*(model(x).logits[:, 3:] for x in (padded, other)))
        if attn == "softmax":
            # Its rotary scores know only distances, so neither does the shift matter.
            torch.testing.assert_close(with_mask[0], model(tokens).logits, rtol=1e-5, atol=1e-5)


def test_weights_start_as_in_gpt2() -> None:
    model = Decoder(DecoderSizes(4, 256, 4, 512, "learnt"), 1000, 512, SoftmaxAttention)
    block = model.trunk.blocks[2]
    assert isinstance(block, Block)
    plain = (model.trunk.tokens, model.trunk.positions, block.qkv, block.mlp_in)
    for layer, std in (
        *((layer, 0.02) for layer in plain),
        (block.attention_out, 0.02 / 8**0.5),
        (block.mlp_out, 0.02 / 8**0.5),
    ):
        assert layer.weight.std().item() == pytest.approx(std, rel=0.02)
        assert abs(layer.weight.mean().item()) < 0.02 * std + 1e-4
    for name, parameter in model.named_parameters():
        if "norm" in name or name.endswith("bias"):
            assert (parameter == float(name.endswith("norm.weight"))).all(), name
    # The mean loss of a fresh model is that of knowing nothing.
    tokens = torch.randint(1000, (2, 64))
    assert model(tokens, labels=tokens).loss.item() == pytest.approx(math.log(1000), abs=0.1)


def test_inputs_and_outputs_share_one_table() -> None:
    model = build()
    assert [name for name, p in model.named_parameters() if VOCAB in p.shape] == ["trunk.tokens.weight"]


@pytest.mark.parametrize("attn", shipped_variants())
def test_attention_keeps_the_parameters_it_was_built_with(attn: str) -> None:
    factory, fresh = load_variant(attn), []

    def remembered(dims: object) -> nn.Module:
        layer = factory(dims=dims)
        fresh.append({name: value.clone() for name, value in layer.state_dict().items()})
        return layer

    model = Decoder(SIZES, VOCAB, LENGTH, remembered)
    layers = attention_layers(model)
    assert len(layers) == len(fresh) == 2
    for layer, state in zip(layers.values(), fresh, strict=True):
        assert layer.dims.causal
        assert (layer.dims.num_heads, layer.dims.head_dim) == (2, 8)
        for name, value in layer.state_dict().items():
            assert torch.equal(value, state[name]), name
    ids_of = [{id(p) for p in layer.parameters()} for layer in layers.values()]
    assert not ids_of[0] & ids_of[1]


def test_hedgehog_s_matrices_start_at_the_identity() -> None:
    for layer in attention_layers(build("hedgehog")).values():
        assert isinstance(layer, LinearAttention)
        for feature_map in (layer.query_map, layer.key_map):
            weight = feature_map.projection.weight
            assert torch.equal(weight, torch.eye(8).expand_as(weight))
            assert not feature_map.projection.bias.any()


def test_models_of_one_seed_differ_in_nothing_but_their_attention() -> None:
    states = []
    for attn in ("softmax", "performer", "t2r"):
        torch.manual_seed(3)
        states.append({k: v for k, v in build(attn).state_dict().items() if "attentions" not in k})
    for state in states[1:]:
        assert state.keys() == states[0].keys()
        assert all(torch.equal(value, states[0][name]) for name, value in state.items())
    torch.manual_seed(4)
    assert not torch.equal(build().trunk.tokens.weight, states[0]["trunk.tokens.weight"])


def test_attention_can_be_captured_and_analysed() -> None:
    model, tokens = build("hedgehog"), ids(2, 7)
    with torch.no_grad(), capture(model) as seen:
        model(tokens)
    layers = attention_layers(model)
    assert list(seen) == list(layers) == ["trunk.attentions.0", "trunk.attentions.1"]
    for name, layer in layers.items():
        weights = layer.weights(seen[name].q, seen[name].k, seen[name].key_mask)
        assert weights.shape == (2, 2, 7, 7)
        assert (attention_entropy(weights) >= 0).all()


def test_a_convolution_sees_so_many_tokens_and_none_that_comes_later() -> None:
    convolution, x = ShortConvolution(4, 3).double(), torch.randn(2, 9, 4, dtype=torch.float64)
    changed = x.clone()
    changed[:, 5] += 1
    differs = (convolution(x) != convolution(changed)).all(dim=(0, 2)).tolist()
    assert [position for position, different in enumerate(differs) if different] == [5, 6, 7]
    # Torch has the taps in the opposite order.
    weight = convolution.weight.flip(0).T[:, None]
    expected = F.conv1d(F.pad(x.mT, (2, 0)), weight, groups=4).mT
    torch.testing.assert_close(convolution(x), expected)
    assert convolution(x[:, :1]).shape == (2, 1, 4)


def test_dropout_acts_in_training_only() -> None:
    model, tokens = build(dropout=0.5), ids()
    assert torch.equal(model(tokens).logits, model(tokens).logits)
    model.train()
    assert not torch.equal(model(tokens).logits, model(tokens).logits)


@pytest.mark.parametrize("attn", shipped_variants())
def test_every_weight_gets_a_gradient(attn: str) -> None:
    model, tokens = build(attn), ids(2, 20)
    model(tokens, labels=tokens).loss.backward()
    for name, parameter in model.named_parameters():
        assert parameter.grad is not None, name
        assert parameter.grad.isfinite().all(), name


@pytest.mark.parametrize("attn", ["softmax", "hedgehog"])
def test_bf16_autocast_stays_near_float32(attn: str) -> None:
    model, tokens = build(attn), ids(2, 20)
    with torch.no_grad():
        exact = model(tokens, labels=tokens)
        with torch.autocast("cpu", dtype=torch.bfloat16):
            rounded = model(tokens, labels=tokens)
    assert rounded.logits.dtype == torch.bfloat16
    assert rounded.loss.dtype == torch.float32
    torch.testing.assert_close(rounded.logits.float(), exact.logits, rtol=0.1, atol=0.1)
    torch.testing.assert_close(rounded.loss, exact.loss, rtol=0.02, atol=0)


def test_a_few_steps_learn_to_repeat_a_pattern() -> None:
    model = build("hedgehog").train()
    tokens = torch.arange(20).remainder(5)[None]
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-2)
    losses = []
    for _ in range(20):
        loss = model(tokens, labels=tokens).loss
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < 0.2 * losses[0]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"num_layers": 0}, "num_layers must be >= 1, got 0"),
        ({"num_heads": 0}, "num_heads must be >= 1, got 0"),
        ({"mlp_size": -1}, "mlp_size must be >= 1, got -1"),
        ({"hidden_size": 15}, "hidden_size must be a multiple of num_heads = 2, got 15"),
        ({"hidden_size": 14}, "hidden_size / num_heads must be even with rotary positions, got 14 / 2"),
        ({"dropout": 1.0}, r"dropout must be in \[0, 1\), got 1.0"),
        ({"init_std": 0.0}, "init_std must be > 0, got 0.0"),
        ({"conv_size": 0}, "conv_size must be >= 1, got 0"),
    ],
)
def test_sizes_out_of_range_are_refused(changes: dict[str, float], message: str) -> None:
    with pytest.raises(ValueError, match=rf"^{message}$"):
        DecoderSizes(**(vars(SIZES) | changes))


@pytest.mark.usefixtures("without_shape_hook")
def test_unknown_positions_are_refused() -> None:
    with pytest.raises(ValueError, match=r"^positions must be one of rotary, learnt, got 'alibi'$"):
        DecoderSizes(1, 4, 1, 4, positions="alibi")


def test_heads_of_odd_width_take_learnt_positions() -> None:
    assert build(hidden_size=14, positions="learnt")(ids()).logits.shape == (3, 9, VOCAB)


def test_lengths_and_vocabularies_out_of_range_are_refused() -> None:
    with pytest.raises(ValueError, match=r"^vocab_size must be >= 1, got 0$"):
        Decoder(SIZES, 0, LENGTH, SoftmaxAttention)
    with pytest.raises(ValueError, match=r"^max_length must be >= 1, got 0$"):
        Decoder(SIZES, VOCAB, 0, SoftmaxAttention)
    with pytest.raises(
        ValueError, match=rf"^input_ids must have at most max_length = {LENGTH} tokens, got {LENGTH + 1}$"
    ):
        build()(ids(1, LENGTH + 1))
    with pytest.raises(ValueError, match=r"^attn: its max_length must be >= the 600 tokens of a sequence, got 512$"):
        Decoder(SIZES, VOCAB, 600, load_variant("cosformer"))
