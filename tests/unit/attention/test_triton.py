"""The Triton kernels against attention written out in float64; without a GPU, in Triton's interpreter."""

import copy
import subprocess
import sys
from dataclasses import replace

import pytest
import torch
from torch import Tensor

from mimicry.attention import AttentionDims, LinearAttention
from mimicry.attention.feature_maps.hedgehog import HedgehogFeatureMap
from mimicry.attention.triton import is_available

if not is_available():
    pytest.skip("Triton is not installed", allow_module_level=True)

from mimicry.attention.triton.decoding import prompt_state, step
from mimicry.attention.triton.fused import LIMIT, LinearMap, hedgehog_attention
from mimicry.attention.triton.tiles import H100, Plan, Tiles

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
CHUNK = 16
# Two chunks per segment; values 32 wide take two tiles.
SMALL = Plan(Tiles(CHUNK, 16, 4, 1), Tiles(CHUNK, 16, 4, 1), segment=2 * CHUNK)
# Inputs are rounded alike on both sides. On a GPU, features of float16 inputs are bfloat16.
TOLERANCE = {torch.float32: 1e-5, torch.float16: 2e-3 if DEVICE == "cpu" else 1.6e-2, torch.bfloat16: 1.6e-2}

both_directions = pytest.mark.parametrize("causal", [False, True], ids=["bidirectional", "causal"])


def inputs(queries: int, keys: int, value_width: int = 16, batch: int = 1, heads: int = 2) -> list[Tensor]:
    """q, k and v; the memory of q is laid out as host models do, heads within tokens."""
    q = torch.randn(batch, queries, heads, 16, device=DEVICE).transpose(1, 2)
    k, v = (torch.randn(batch, heads, keys, width, device=DEVICE) for width in (16, value_width))
    return [q, k, v]


def maps(features: int = 16, heads: int = 2, bias: bool = True) -> list[Tensor]:
    """Weights of the query map and the key map, then their biases."""
    weights = [0.3 * torch.randn(heads, features, 16, device=DEVICE) for _ in range(2)]
    return weights + [0.5 * torch.randn(heads, 1, features, device=DEVICE) for _ in range(2) if bias]


def split(parameters: list[Tensor]) -> tuple[LinearMap, LinearMap]:
    weights, biases = parameters[:2], parameters[2:] or [None, None]
    return LinearMap(weights[0], biases[0]), LinearMap(weights[1], biases[1])


def log_features(x: Tensor, linear: LinearMap) -> Tensor:
    u = torch.einsum("bhnd,hfd->bhnf", x, linear.weight.expand(x.shape[1], -1, -1))
    u = u if linear.bias is None else u + linear.bias
    return torch.cat([u, -u], dim=-1)


def written_out(leaves: list[Tensor], causal: bool, key_mask: Tensor | None = None) -> Tensor:
    """Attention by its definition; rows without a visible key are 0."""
    (q, k, v), (query_map, key_map) = leaves[:3], split(leaves[3:])
    scores = log_features(q, query_map).exp() @ log_features(k, key_map).exp().mT
    scores = scores.tril() if causal else scores
    if key_mask is not None:
        scores = scores * key_mask[:, None, None]
    return scores @ v / scores.sum(dim=-1, keepdim=True).clamp(min=1e-30)


def check(
    leaves: list[Tensor],
    causal: bool,
    key_mask: Tensor | None = None,
    key_shift: Tensor | None = None,
    plan: Plan = SMALL,
    tolerance: float = 1e-5,
) -> None:
    """Outputs and all gradients equal those of the definition in float64."""
    leaves = [x.detach().requires_grad_() for x in leaves]
    query_map, key_map = split(leaves[3:])
    outputs = hedgehog_attention(
        *leaves[:3], query_map, key_map, causal=causal, key_mask=key_mask, key_shift=key_shift, plan=plan
    )
    assert outputs.dtype == leaves[2].dtype
    direction = torch.randn_like(outputs)
    exact = [x.detach().double().requires_grad_() for x in leaves]
    expected = written_out(exact, causal, key_mask)
    torch.testing.assert_close(outputs.double(), expected, rtol=tolerance, atol=tolerance)
    gradients = torch.autograd.grad(outputs, leaves, direction)
    for gradient, reference, leaf in zip(
        gradients, torch.autograd.grad(expected, exact, direction.double()), leaves, strict=True
    ):
        assert gradient.dtype == leaf.dtype
        largest = reference.abs().max().item() if reference.numel() else 0.0
        torch.testing.assert_close(gradient.double(), reference, rtol=tolerance, atol=tolerance * (1 + largest))


@both_directions
@pytest.mark.parametrize("tokens", [1, CHUNK - 1, CHUNK, CHUNK + 1])
def test_outputs_and_gradients_equal_the_definition_around_one_chunk(tokens: int, causal: bool) -> None:
    check([*inputs(tokens, tokens), *maps()], causal)


@both_directions
def test_outputs_and_gradients_equal_the_definition_over_several_segments(causal: bool) -> None:
    check([*inputs(70, 70), *maps()], causal)


@both_directions
def test_padding_in_any_place_is_ignored(causal: bool) -> None:
    key_mask = torch.rand(2, 40, device=DEVICE) < 0.7
    key_mask[0, :20], key_mask[1, 20:] = False, False
    check([*inputs(40, 40, batch=2, heads=1), *maps(heads=1)], causal, key_mask)


@both_directions
def test_what_stands_in_masked_keys_and_values_is_never_read(causal: bool) -> None:
    q, k, v = inputs(20, 20)
    key_mask = (torch.arange(20, device=DEVICE) < 12)[None]
    linear = split(maps())
    before = hedgehog_attention(q, k, v, *linear, causal=causal, key_mask=key_mask)
    k[:, :, 12:], v[:, :, 12:] = torch.nan, torch.inf
    torch.testing.assert_close(
        hedgehog_attention(q, k, v, *linear, causal=causal, key_mask=key_mask), before, rtol=0, atol=0
    )


@both_directions
def test_a_map_may_be_shared_by_all_heads_and_have_no_bias(causal: bool) -> None:
    check([*inputs(7, 7), *maps(heads=1)], causal)
    check([*inputs(7, 7), *maps(heads=1, bias=False)], causal)


@both_directions
def test_features_and_values_may_be_wider_than_heads_and_values_take_several_tiles(causal: bool) -> None:
    check([*inputs(36, 36, value_width=32, heads=1), *maps(features=32, heads=1)], causal)


@both_directions
def test_the_tiles_meant_for_a_gpu_give_the_same(causal: bool) -> None:
    check([*inputs(70, 70, heads=1), *maps(heads=1)], causal, plan=H100[16])


@pytest.mark.parametrize(("queries", "keys"), [(5, 40), (40, 5)])
def test_queries_and_keys_may_differ_in_number_without_causality(queries: int, keys: int) -> None:
    check([*inputs(queries, keys, heads=1), *maps(heads=1)], causal=False)


@both_directions
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16], ids=str)
def test_half_precision_stays_within_its_rounding(dtype: torch.dtype, causal: bool) -> None:
    states = [x.to(dtype) for x in inputs(20, 20)]
    # Maps stay in float32, with entries that half precision holds exactly: both sides see the same numbers.
    parameters = [x.to(torch.bfloat16).float() for x in maps()]
    check([*states, *parameters], causal, tolerance=TOLERANCE[dtype])


@both_directions
def test_no_queries_or_no_keys_give_zeros_and_no_error(causal: bool) -> None:
    check([*inputs(0, 0), *maps()], causal)
    if not causal:
        check([*inputs(0, 3), *maps()], causal)
        check([*inputs(3, 0), *maps()], causal)


@both_directions
def test_projections_as_large_as_the_limit_stay_exact(causal: bool) -> None:
    leaves = [*inputs(40, 40, heads=1), *maps(heads=1, bias=False)]
    for x, weight in ((0, 3), (1, 4)):
        leaves[weight] *= LIMIT / log_features(leaves[x], LinearMap(leaves[weight])).abs().max()
    check(leaves, causal, tolerance=1e-4)


def test_a_shift_of_the_keys_makes_any_size_safe_without_causality() -> None:
    leaves = [*inputs(40, 40, heads=1), *maps(heads=1, bias=False)]
    for x, weight in ((0, 3), (1, 4)):
        leaves[weight] *= 150 / log_features(leaves[x], LinearMap(leaves[weight])).abs().max()
    shift = log_features(leaves[1], LinearMap(leaves[4])).amax(dim=2, keepdim=True)
    check(leaves, causal=False, key_shift=shift, tolerance=2e-4)


def test_a_shift_of_the_keys_changes_nothing() -> None:
    check([*inputs(20, 20), *maps()], causal=True, key_shift=torch.randn(1, 2, 1, 32, device=DEVICE))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize("heads", [1, 2])
def test_decoding_token_by_token_equals_causal_attention(dtype: torch.dtype, heads: int) -> None:
    leaves = [x.to(dtype) for x in inputs(20, 20, value_width=64, batch=2)]
    parameters = [x.to(torch.bfloat16).float() for x in maps(heads=heads)]
    expected = written_out([x.double() for x in leaves + parameters], causal=True)
    (q, k, v), linear = leaves, split(parameters)
    state = prompt_state(k[:, :, :12], v[:, :, :12], linear[1])
    assert state.kv.dtype == state.k.dtype == torch.float32
    for token in range(12, 20):
        at = slice(token, token + 1)
        y, state = step(q[:, :, at], k[:, :, at], v[:, :, at], state, *linear, overwrite=True)
        tolerance = TOLERANCE[dtype]
        torch.testing.assert_close(y.double(), expected[:, :, at], rtol=tolerance, atol=tolerance)
    assert state.tokens == 20
    phi = log_features(k.double(), LinearMap(*(x.double() for x in linear[1]))).exp()
    torch.testing.assert_close(state.k.double(), phi.sum(dim=2), rtol=1e-5 if DEVICE == "cpu" else 1e-2, atol=0)


def layer() -> LinearAttention:
    attn = LinearAttention(AttentionDims(2, 16, causal=True), HedgehogFeatureMap, backend="triton").to(DEVICE)
    with torch.no_grad():
        for parameter in attn.parameters():
            parameter.add_(0.2 * torch.randn_like(parameter))
    return attn


@pytest.mark.parametrize("prompt", [0, 5], ids=["no prompt", "prompt"])
@pytest.mark.parametrize("growth", [0.0, 0.5], ids=["alike", "growing"])
def test_a_layer_decodes_in_the_kernel_whatever_the_size_of_its_keys(prompt: int, growth: float) -> None:
    attn, (q, k, v) = layer(), inputs(12, 12, batch=3)
    # The last keys have exponents near 150: plain features overflow, and the shift has to follow them.
    k = k * torch.linspace(0, 12, 12, device=DEVICE).mul(growth).exp()[:, None].clamp(max=40)
    mask = torch.rand(3, 12, device=DEVICE) < 0.7
    mask[0], mask[1, :7] = True, False
    v = v.masked_fill(~mask[:, None, :, None], torch.nan)
    exact = copy.deepcopy(attn).double()
    exact.backend = "reference"
    expected = exact.weights(q.double(), k.double(), mask) @ v.double().nan_to_num()
    state = attn.absorb(k[:, :, :prompt], v[:, :, :prompt], mask[:, :prompt]) if prompt else None
    for token in range(prompt, 12):
        at = slice(token, token + 1)
        y, state = attn.resume(q[:, :, at], k[:, :, at], v[:, :, at], state, mask[:, at])
        torch.testing.assert_close(y.double(), expected[:, :, at], rtol=1e-4, atol=1e-4)
    assert state is not None
    assert state.shift is not None
    assert (state.shift.amax() > 100) == bool(growth)


def test_the_kernel_writes_over_a_state_only_where_it_is_given_away() -> None:
    attn, (q, k, v) = layer(), inputs(3, 3)
    state = attn.absorb(k[:, :, :2], v[:, :, :2]).with_shift()
    before = {name: x.clone() for name, x in state.tensors().items()}
    last = [x[:, :, 2:] for x in (q, k, v)]
    y, kept = attn.resume(*last, state)
    assert all(torch.equal(x, before[name]) for name, x in state.tensors().items())
    again, given = attn.resume(*last, state, overwrite=True)
    assert torch.equal(again, y)
    assert given.kv.data_ptr() == state.kv.data_ptr() != kept.kv.data_ptr()
    assert torch.equal(given.kv, kept.kv)


def test_sizes_and_dtypes_the_kernels_are_not_made_for_are_refused() -> None:
    (q, k, v), (query_map, key_map) = inputs(4, 4), split(maps())
    with pytest.raises(ValueError, match="numbers of features must be among"):
        hedgehog_attention(q, k, v, *split(maps(features=24)), causal=True)
    with pytest.raises(ValueError, match=r"widths .* must be among"):
        hedgehog_attention(q[..., :8], k[..., :8], v, query_map, key_map, causal=True)
    with pytest.raises(ValueError, match="share float32, float16 or bfloat16"):
        hedgehog_attention(q.double(), k.double(), v.double(), query_map, key_map, causal=True)
    with pytest.raises(ValueError, match="queries must be as many as keys"):
        hedgehog_attention(q[:, :, :2], k, v, query_map, key_map, causal=True)
    state = prompt_state(k, v, key_map)
    with pytest.raises(ValueError, match="1 token when decoding"):
        step(q, k, v, state, query_map, key_map)
    last = [x[:, :, 3:] for x in (q, k, v)]
    with pytest.raises(ValueError, match=r"state.kv must be contiguous float32 \(1, 2, 32, 16\), got torch.float64"):
        step(*last, replace(state, kv=state.kv.double()), query_map, key_map)
    with pytest.raises(ValueError, match=r"state\.k must be contiguous"):
        step(*last, replace(state, k=state.k[..., :1].expand(state.k.shape)), query_map, key_map)
    with pytest.raises(ValueError, match="multiple of 64"):
        Plan(Tiles(16, 16, 4, 1), Tiles(64, 16, 4, 1), segment=48)


def test_importing_the_attentions_leaves_triton_alone() -> None:
    code = "import sys, mimicry.attention, mimicry.attention.triton; sys.exit('triton' in sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True)
