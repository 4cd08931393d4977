"""Features handed to those who sum over keys themselves."""

import math

import pytest
import torch
from torch import Tensor

from mimicry.attention import AttentionDims, LinearAttention
from mimicry.attention.causal import COMMON_RANGE
from mimicry.attention.feature_maps.exponential import ExponentialFeatureMap
from mimicry.attention.feature_maps.t2r import T2RFeatureMap
from mimicry.attention.shipped import load_variant

LEARNT = ("hedgehog", "hedgehog_softmax", "t2r")


def layer(name: str, causal: bool) -> LinearAttention:
    """A layer as after some training."""
    attn = load_variant(name)(dims=AttentionDims(2, 8, causal)).double()
    assert isinstance(attn, LinearAttention)
    with torch.no_grad():
        for parameter in attn.parameters():
            parameter.add_(0.2 * torch.randn_like(parameter))
    return attn


def mask(kind: str, tokens: int) -> Tensor | None:
    position = torch.arange(tokens)
    kinds = {
        "right": torch.stack([position < tokens // 2, position >= 0]),
        "left": torch.stack([position >= 3, position >= 0]),
        "blind": torch.stack([position < 0, position == 4]),
    }
    return kinds.get(kind)


@pytest.mark.parametrize("name", LEARNT)
@pytest.mark.parametrize("causal", [False, True], ids=["bidirectional", "causal"])
@pytest.mark.parametrize("kind", ["full", "right", "left", "blind"])
@pytest.mark.parametrize("queries", [1, 5, 12])
def test_their_products_normalised_are_the_weights(name: str, causal: bool, kind: str, queries: int) -> None:
    attn, (q, k) = layer(name, causal), torch.randn(2, 2, 2, 12, 8, dtype=torch.float64)
    q, key_mask = q[:, :, -queries:], mask(kind, 12)
    features = attn.features(q, k, key_mask)
    assert features is not None
    phi_q, phi_k = features
    assert (phi_q >= 0).all()
    assert (phi_k >= 0).all()
    scores = phi_q @ phi_k.transpose(-1, -2)
    scores = scores.tril(12 - queries) if causal else scores
    weights = scores / scores.sum(dim=-1, keepdim=True).clamp(min=1e-300)
    torch.testing.assert_close(weights, attn.weights(q, k, key_mask), rtol=1e-12, atol=1e-14)


def exponential(causal: bool) -> LinearAttention:
    """Attention whose exponents are the states themselves."""
    return LinearAttention(AttentionDims(2, 8, causal), ExponentialFeatureMap)


@pytest.mark.parametrize("causal", [False, True], ids=["bidirectional", "causal"])
@pytest.mark.parametrize("size", [1.0, 300.0])
def test_exponentials_of_any_size_stay_below_one(causal: bool, size: float) -> None:
    q, k = torch.randn(2, 2, 2, 12, 8)
    k = size + 5 * k
    features = exponential(causal).features(size * q, k)
    assert features is not None
    phi_q, phi_k = features
    assert phi_q.max() == phi_k.max() == 1
    # The least that a row can sum to, far above the smallest float32.
    assert (phi_q * phi_k.amax(dim=2, keepdim=True)).sum(dim=-1).min() >= 1


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
def test_the_first_row_stays_in_range_up_to_the_common_range(dtype: torch.dtype) -> None:
    attn, (q, k) = exponential(causal=True), torch.zeros(2, 1, 2, 12, 8, dtype=dtype)
    k[:, :, 7, 3] = COMMON_RANGE
    features = attn.features(q, k)
    assert features is not None
    # Its largest feature is that of the later key.
    first = (features[0][:, :, 0] * features[1][:, :, 0]).sum(dim=-1)
    torch.testing.assert_close(first / math.exp(-COMMON_RANGE), torch.full_like(first, 8.0))
    k[:, 1, 7, 3] = COMMON_RANGE + 0.1
    assert attn.features(q, k) is None
    assert exponential(causal=False).features(q, k) is not None


def test_what_counts_is_the_first_query_that_sees_a_key() -> None:
    attn, (q, k) = exponential(causal=True), torch.zeros(2, 1, 2, 12, 8)
    k[:, :, 4:] = COMMON_RANGE + 1
    assert attn.features(q, k) is None
    # With fewer queries than keys the first of them sees key 4, and so it does when all before are padding.
    assert attn.features(q[:, :, -8:], k) is not None
    assert attn.features(q[:, :, -9:], k) is None
    key_mask = torch.arange(12)[None] >= 4
    assert attn.features(q, k, key_mask) is not None
    assert attn.features(q, k, torch.arange(12)[None] >= 3) is None
    assert attn.features(q, k, torch.arange(12)[None] < 4) is not None
    assert attn.features(q[:, :, -7:], k, torch.arange(12)[None] >= 3) is not None
    assert attn.features(q, k, key_mask & False) is not None


def test_maps_that_are_no_exponentials_hand_over_what_they_give() -> None:
    attn = LinearAttention(AttentionDims(2, 8, causal=True), T2RFeatureMap)
    q, k = torch.randn(2, 2, 2, 12, 8)
    key_mask = mask("left", 12)
    features = attn.features(q, 1e4 * k, key_mask)
    assert features is not None
    assert key_mask is not None
    torch.testing.assert_close(features[0], attn.query_map(q))
    torch.testing.assert_close(features[1], attn.key_map(1e4 * k) * key_mask[:, None, :, None])


def test_features_have_at_least_float32() -> None:
    attn = layer("hedgehog", causal=True).float()
    q, k = torch.randn(2, 2, 2, 12, 8, dtype=torch.bfloat16)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        features = attn.features(q, k)
    assert features is not None
    assert {x.dtype for x in features} == {torch.float32}


def test_states_that_do_not_fit_are_refused() -> None:
    with pytest.raises(ValueError, match=r"^q must be \(batch, 2, tokens, 8\), got \(1, 3, 5, 8\)$"):
        exponential(causal=True).features(torch.ones(1, 3, 5, 8), torch.ones(1, 3, 5, 8))
