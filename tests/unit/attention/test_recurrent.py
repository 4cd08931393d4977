"""The state of linear attention: an explicit value that can be carried, resumed, reordered and saved."""

from functools import partial
from pathlib import Path

import pytest
import torch
from memory import LargestTensor
from safetensors.torch import load_file, save_file
from torch import Tensor

from mimicry.attention import AttentionDims, LinearAttention, LinearState
from mimicry.attention.feature_maps.cosformer import CosformerFeatureMap
from mimicry.attention.feature_maps.elu import EluFeatureMap
from mimicry.attention.feature_maps.hedgehog import HedgehogFeatureMap
from mimicry.attention.feature_maps.hedgehog_softmax import HedgehogSoftmaxFeatureMap
from mimicry.attention.feature_maps.relu import ReluFeatureMap
from mimicry.attention.feature_maps.taylor import TaylorFeatureMap

HEADS, WIDTH, TOKENS = 2, 8, 200
MAPS = {
    "hedgehog": HedgehogFeatureMap,
    "softmax": HedgehogSoftmaxFeatureMap,
    "elu": EluFeatureMap,
    "relu": ReluFeatureMap,
    "cosformer": partial(CosformerFeatureMap, max_length=TOKENS),
    "taylor": TaylorFeatureMap,
}
# Pieces that tokens arrive in: one by one, around a chunk, all but one, all.
PIECES = [[1] * 5 + [195], [63, 1, 64, 65, 7], [199, 1], [200], [0, 70, 0, 130]]

every_map = pytest.mark.parametrize("name", MAPS)


def layer(name: str, dtype: torch.dtype = torch.float64) -> LinearAttention:
    attn = LinearAttention(AttentionDims(HEADS, WIDTH, causal=True), MAPS[name]).to(dtype)
    with torch.no_grad():
        for parameter in attn.parameters():
            parameter.add_(0.2 * torch.randn_like(parameter))
    return attn


def states(batch: int = 3, dtype: torch.dtype = torch.float64) -> tuple[Tensor, Tensor, Tensor]:
    q, k, v = torch.randn(3, batch, HEADS, TOKENS, WIDTH, dtype=torch.float64).to(dtype)
    return q, k, v


def in_pieces(
    attn: LinearAttention, pieces: list[int], inputs: tuple[Tensor, Tensor, Tensor], mask: Tensor | None = None
) -> tuple[Tensor, LinearState]:
    outputs, state, first = [], None, 0
    for length in pieces:
        at = slice(first, first + length)
        some = None if mask is None else mask[:, at]
        out, state = attn.resume(*(x[:, :, at] for x in inputs), state, some)
        outputs.append(out)
        first += length
    assert state is not None
    return torch.cat(outputs, dim=2), state


@every_map
@pytest.mark.parametrize("pieces", PIECES, ids=str)
@pytest.mark.parametrize("padded", [False, True], ids=["full", "padded"])
def test_any_pieces_give_the_outputs_of_one_pass(name: str, pieces: list[int], padded: bool) -> None:
    attn, inputs = layer(name), states()
    mask = None
    if padded:
        mask = torch.rand(3, TOKENS) > 0.3
        mask[0] = torch.arange(TOKENS) >= 66
    outputs, state = in_pieces(attn, pieces, inputs, mask)
    assert state.tokens == TOKENS
    torch.testing.assert_close(outputs, attn.weights(*inputs[:2], mask) @ inputs[2], rtol=0, atol=1e-10)


@every_map
def test_token_by_token_is_one_pass_too(name: str) -> None:
    attn, inputs = layer(name), states(batch=1)
    outputs, _ = in_pieces(attn, [1] * TOKENS, inputs)
    torch.testing.assert_close(outputs, attn.weights(*inputs[:2]) @ inputs[2], rtol=0, atol=1e-10)


@every_map
@pytest.mark.parametrize("padded", [False, True], ids=["full", "padded"])
@pytest.mark.parametrize("scale", [1.0, 100.0], ids=["plain", "shifted"])
def test_a_prompt_can_be_absorbed_without_its_outputs(name: str, padded: bool, scale: float) -> None:
    attn, (q, k, v) = layer(name), states()
    k = k * scale
    mask = torch.rand(3, TOKENS) > 0.3 if padded else None
    state = attn.absorb(k[:, :, :150], v[:, :, :150], None if mask is None else mask[:, :150])
    rest = [x[:, :, 150:] for x in (q, k, v)]
    out, after = attn.resume(*rest, state, None if mask is None else mask[:, 150:])
    torch.testing.assert_close(out, (attn.weights(q, k, mask) @ v)[:, :, 150:], rtol=0, atol=1e-9)
    assert after.tokens == TOKENS


def test_absorbing_a_long_prompt_forms_no_tensor_of_all_features() -> None:
    attn = LinearAttention(AttentionDims(1, 4, causal=True), partial(HedgehogFeatureMap, num_features=32))
    k = torch.randn(1, 1, 8192, 4)
    with LargestTensor() as watched:
        attn.absorb(k, k)
    assert 0 < watched.largest < 8192 * attn.key_map.feature_dim


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float32], ids=str)
def test_the_state_is_float32_and_of_constant_size(dtype: torch.dtype) -> None:
    attn, inputs = layer("hedgehog", dtype), states(dtype=dtype)
    sizes = set()
    state = None
    for token in range(TOKENS):
        out, state = attn.resume(*(x[:, :, token : token + 1] for x in inputs), state)
        assert out.dtype == dtype
        assert {state.kv.dtype, state.k.dtype} == {torch.float32}
        sizes.add(state.nbytes)
    assert sizes == {4 * 3 * HEADS * 2 * WIDTH * (WIDTH + 1)}
    exact = attn.double()(*(x.double() for x in inputs))[:, :, -1:]
    tolerance = {torch.float32: 1e-5, torch.float16: 4e-3, torch.bfloat16: 3e-2}[dtype]
    torch.testing.assert_close(out.double(), exact, rtol=0, atol=tolerance)


@pytest.mark.parametrize("name", ["hedgehog", "elu"])
@pytest.mark.parametrize("pieces", PIECES, ids=str)
@pytest.mark.parametrize("size", [5.0, 40.0, 170.0])
def test_exponents_of_any_size_stay_exact(name: str, pieces: list[int], size: float) -> None:
    attn, (q, k, v) = layer(name), states()
    inputs = ((size * q).clamp(-170, 170), (size * k).clamp(-170, 170), v)
    exact = attn.weights(*inputs[:2]) @ v
    outputs, state = in_pieces(attn.float(), pieces, tuple(x.float() for x in inputs))
    assert state.kv.isfinite().all()
    torch.testing.assert_close(outputs.double(), exact, rtol=0, atol=2e-3)


@pytest.mark.parametrize("pieces", PIECES, ids=str)
def test_keys_that_grow_along_the_sequence_stay_exact(pieces: list[int]) -> None:
    attn, (q, k, v) = layer("hedgehog"), states()
    inputs = (q, k * torch.linspace(0.1, 100, TOKENS)[:, None], v)
    exact = attn.weights(*inputs[:2]) @ v
    outputs, _ = in_pieces(attn.float(), pieces, tuple(x.float() for x in inputs))
    torch.testing.assert_close(outputs.double(), exact, rtol=0, atol=1e-3)


def test_a_prompt_of_padding_only_leaves_the_scale_open() -> None:
    attn, (q, k, v) = layer("hedgehog", torch.float32), states(dtype=torch.float32)
    hidden = torch.zeros(3, 100, dtype=torch.bool)
    out, state = attn.resume(q[:, :, :100], k[:, :, :100], v[:, :, :100], None, hidden)
    assert (out == 0).all()
    # A first key far below exp's range: its weight is 1 all the same.
    out, _ = attn.resume(q[:, :, :1], k[:, :, :1] - 160, v[:, :, :1], state)
    torch.testing.assert_close(out, v[:, :, :1], rtol=1e-5, atol=1e-5)


def test_rows_can_be_reordered_for_beam_search() -> None:
    attn, inputs = layer("hedgehog"), states()
    rows = torch.tensor([2, 0, 0])
    _, state = attn.resume(*(x[:, :, :150] for x in inputs))
    chosen = [x.index_select(0, rows) for x in inputs]
    out, _ = attn.resume(*(x[:, :, 150:] for x in chosen), state.reorder(rows))
    torch.testing.assert_close(out, attn(*chosen)[:, :, 150:], rtol=0, atol=1e-10)


def test_an_old_state_is_still_good() -> None:
    attn, inputs = layer("hedgehog"), states()
    _, state = attn.resume(*(x[:, :, :150] for x in inputs))
    rest = [x[:, :, 150:] for x in inputs]
    first, _ = attn.resume(*rest, state)
    again, _ = attn.resume(*rest, state)
    assert torch.equal(first, again)


def test_a_state_survives_the_disk(tmp_path: Path) -> None:
    attn, inputs = layer("hedgehog"), states()
    _, state = attn.resume(*(x[:, :, :150] for x in inputs))
    save_file(state.tensors(), tmp_path / "state.safetensors")
    loaded = LinearState.load(load_file(tmp_path / "state.safetensors"))
    rest = [x[:, :, 150:] for x in inputs]
    assert torch.equal(attn.resume(*rest, state)[0], attn.resume(*rest, loaded)[0])


def test_a_file_without_all_of_a_state_is_refused() -> None:
    with pytest.raises(ValueError, match="missing k, tokens"):
        LinearState.load({"kv": torch.zeros(1), "shift": torch.zeros(1)})


def test_the_state_of_another_layer_is_refused() -> None:
    attn, inputs = layer("hedgehog"), states()
    _, other = layer("elu").resume(*inputs)
    with pytest.raises(ValueError, match=r"state.kv must be \(3, 2, 16, 8\).*got \(3, 2, 8, 8\)"):
        attn.resume(*inputs, other)
    _, mine = attn.resume(*inputs)
    with pytest.raises(ValueError, match=r"state.kv must be \(1, 2, 16, 8\)"):
        attn.resume(*(x[:1] for x in inputs), mine)
    with pytest.raises(ValueError, match=r"state.kv must be .* torch.float32"):
        attn.resume(*(x.float() for x in inputs), mine)


def test_what_cannot_be_resumed_is_refused() -> None:
    inputs = states()
    both_ways = LinearAttention(AttentionDims(HEADS, WIDTH, causal=False), EluFeatureMap)
    with pytest.raises(ValueError, match="a state needs dims"):
        both_ways.resume(*inputs)
    with pytest.raises(ValueError, match="a state needs dims"):
        both_ways.absorb(*inputs[1:])
    with pytest.raises(ValueError, match=r"q must have as many tokens as k \(200\) to resume, got 3"):
        layer("elu").resume(inputs[0][:, :, :3], *inputs[1:])
    attn = layer("cosformer")
    _, state = attn.resume(*inputs)
    with pytest.raises(ValueError, match=r"tokens must be <= max_length = 200, got 200 \+ 1"):
        attn.resume(*(x[:, :, :1] for x in inputs), state)


def test_no_gradient_is_recorded() -> None:
    attn, inputs = layer("hedgehog"), states()
    out, state = attn.resume(*(x.requires_grad_() for x in inputs))
    assert not out.requires_grad
    assert not state.kv.requires_grad


@every_map
def test_a_state_that_is_given_away_is_written_over(name: str) -> None:
    attn, inputs = layer(name), states()
    _, state = attn.resume(*(x[:, :, :150] for x in inputs))
    addresses = (state.kv.data_ptr(), state.k.data_ptr())
    outputs = []
    for token in range(150, TOKENS):
        out, state = attn.resume(*(x[:, :, token : token + 1] for x in inputs), state, overwrite=True)
        outputs.append(out)
    assert (state.kv.data_ptr(), state.k.data_ptr()) == addresses
    exact = (attn.weights(*inputs[:2]) @ inputs[2])[:, :, 150:]
    torch.testing.assert_close(torch.cat(outputs, dim=2), exact, rtol=0, atol=1e-10)


def test_a_state_that_is_not_given_away_is_left_alone() -> None:
    attn, (q, k, v) = layer("hedgehog"), states()
    _, state = attn.resume(q[:, :, :150], k[:, :, :150], v[:, :, :150])
    kept = (state.kv.clone(), state.k.clone())
    attn.resume(q[:, :, 150:151], k[:, :, 150:151], v[:, :, 150:151], state)
    assert torch.equal(state.kv, kept[0])
    assert torch.equal(state.k, kept[1])


def test_a_state_of_inference_mode_goes_on_outside_of_it() -> None:
    attn, inputs = layer("hedgehog"), states()
    with torch.inference_mode():
        _, state = attn.resume(*(x[:, :, :199] for x in inputs))
    out, _ = attn.resume(*(x[:, :, 199:] for x in inputs), state, overwrite=True)
    torch.testing.assert_close(out, attn(*inputs)[:, :, 199:], rtol=0, atol=1e-10)


def test_a_token_meets_the_maps_as_they_are_now() -> None:
    """The matrices of both maps are joined once, and again whenever a map has changed."""
    attn, inputs = layer("hedgehog"), states()
    first, last = [x[:, :, :199] for x in inputs], [x[:, :, 199:] for x in inputs]

    def check() -> None:
        _, state = attn.resume(*first)
        out, _ = attn.resume(*last, state)
        torch.testing.assert_close(out, attn(*inputs)[:, :, 199:], rtol=0, atol=1e-10)

    check()
    weight = attn.key_map.projection.weight
    with torch.no_grad():
        weight.mul_(0.5)
    check()
    weight.data = weight.data * 3
    check()
    attn.to(torch.float16).to(torch.float64)
    check()
    attn.query_map.projection.bias = torch.nn.Parameter(torch.randn_like(attn.query_map.projection.bias))
    check()
    with torch.inference_mode():
        attn.load_state_dict({name: value + 0.1 for name, value in attn.state_dict().items()})
        check()
