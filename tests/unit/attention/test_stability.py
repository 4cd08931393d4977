"""Large projections neither overflow nor vanish: float32 and bfloat16 against a float64 log-sum-exp."""

from functools import partial

import pytest
import torch
from torch import Tensor

from mimicry.attention import Attention, AttentionDims, LinearAttention
from mimicry.attention.feature_maps.base import LogFeatureMap
from mimicry.attention.feature_maps.exponential import ExponentialFeatureMap
from mimicry.attention.feature_maps.hedgehog import HedgehogFeatureMap
from mimicry.attention.shipped import load_variant, shipped_variants

TOKENS, WIDTH = 70, 8
FEATURE_MAPS = {
    "hedgehog": HedgehogFeatureMap,
    "exp_t1": ExponentialFeatureMap,
    "exp_t2": partial(ExponentialFeatureMap, temperature=2.0),
}
TOLERANCE = {torch.float32: 1e-4, torch.bfloat16: 2e-2}

every_map = pytest.mark.parametrize("name", FEATURE_MAPS)
every_dtype = pytest.mark.parametrize("dtype", TOLERANCE, ids=str)


def layer(name: str, causal: bool) -> LinearAttention:
    return LinearAttention(AttentionDims(2, WIDTH, causal), FEATURE_MAPS[name])


def large(tokens: int, dtype: torch.dtype) -> tuple[Tensor, Tensor, Tensor]:
    """q and k up to 170 in size, far beyond what exp can hold in float32; v of order 1."""
    q, k, v = 2 * torch.rand(3, 2, 2, tokens, WIDTH) - 1
    return (170 * q).to(dtype), (170 * k).to(dtype), v.to(dtype)


def exact_weights(attn: LinearAttention, q: Tensor, k: Tensor) -> Tensor:
    """softmax_j(log sum_f exp(log phi_f(q_i) + log phi_f(k_j))) in float64."""
    assert isinstance(attn.query_map, LogFeatureMap)
    assert isinstance(attn.key_map, LogFeatureMap)
    log_q, log_k = attn.query_map.log_features(q.double()), attn.key_map.log_features(k.double())
    scores = torch.logsumexp(log_q[:, :, :, None] + log_k[:, :, None], dim=-1)
    if attn.dims.causal:
        n, m = scores.shape[-2:]
        scores = scores.masked_fill(torch.ones(n, m, dtype=torch.bool).triu(m - n + 1), -torch.inf)
    return scores.softmax(dim=-1)


def check(attn: LinearAttention, q: Tensor, k: Tensor, v: Tensor) -> None:
    tolerance = TOLERANCE[v.dtype]
    exact = exact_weights(attn, q, k).detach()
    outputs, weights = attn(q, k, v), attn.weights(q, k)
    torch.testing.assert_close(weights.double(), exact, rtol=0, atol=1e-4)
    torch.testing.assert_close(outputs.double(), exact @ v.double(), rtol=0, atol=tolerance)


@every_map
@every_dtype
def test_large_projections_stay_exact(name: str, dtype: torch.dtype) -> None:
    check(layer(name, causal=False), *large(TOKENS, dtype))


@every_map
@every_dtype
def test_large_projections_stay_exact_when_causal(name: str, dtype: torch.dtype) -> None:
    check(layer(name, causal=True), *large(TOKENS, dtype))


@every_map
def test_moderate_projections_stay_exact_when_causal(name: str) -> None:
    q, k, v = large(TOKENS, torch.float32)
    check(layer(name, causal=True), q / 30, k / 30, v)


@every_map
def test_a_large_future_key_leaves_earlier_causal_outputs_unchanged(name: str) -> None:
    attn = layer(name, causal=True)
    q, k, v = torch.randn(3, 1, 2, TOKENS, WIDTH)
    before = attn(q, k, v)
    k[:, :, -1] = 170.0
    torch.testing.assert_close(attn(q, k, v)[:, :, :-1], before[:, :, :-1], rtol=0, atol=1e-5)


@every_map
@pytest.mark.parametrize("causal", [False, True])
@pytest.mark.parametrize("scale", [3.0, 60.0])
def test_gradients_equal_those_of_the_plain_formula_however_large_projections_are(
    name: str, causal: bool, scale: float
) -> None:
    attn = layer(name, causal).double()
    q, k, v = (x.requires_grad_() for x in torch.randn(3, 1, 2, TOKENS, WIDTH, dtype=torch.float64))
    inputs = [q, k, v, *attn.parameters()]
    direction = torch.randn_like(v)
    ours = torch.autograd.grad(attn(scale * q, scale * k, v), inputs, direction)
    exact = torch.autograd.grad(exact_weights(attn, scale * q, scale * k) @ v, inputs, direction)
    for gradient, expected in zip(ours, exact, strict=True):
        torch.testing.assert_close(gradient, expected, rtol=1e-8, atol=1e-10)


@every_map
@every_dtype
@pytest.mark.parametrize("causal", [False, True])
def test_gradients_of_large_projections_are_finite(name: str, dtype: torch.dtype, causal: bool) -> None:
    attn = layer(name, causal)
    q, k, v = (x.requires_grad_() for x in large(TOKENS, dtype))
    (attn(q, k, v).float().square().sum() + attn.weights(q, k).square().sum()).backward()
    for tensor in (q, k, v, *attn.parameters()):
        assert tensor.grad is not None
        assert tensor.grad.isfinite().all()


@pytest.mark.parametrize("name", shipped_variants())
def test_rows_sum_to_one_however_negative_queries_and_keys_are(name: str) -> None:
    attn: Attention = load_variant(name)(dims=AttentionDims(2, WIDTH, causal=False))
    q = k = torch.full((1, 2, 500, WIDTH), -20.0)
    key_mask = torch.arange(500)[None] < 1
    sums = attn.weights(q, k, key_mask).sum(dim=-1)
    torch.testing.assert_close(sums, torch.ones_like(sums), rtol=0, atol=1e-5)
    v = torch.ones(1, 2, 500, 3)
    torch.testing.assert_close(attn(q, k, v, key_mask), v, rtol=0, atol=1e-5)
