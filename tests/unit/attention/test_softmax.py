"""Softmax attention against its definition, one row at a time in float64."""

import math

import numpy as np
import pytest
import torch
from memory import LargestTensor
from torch import Tensor

from mimicry.attention import AttentionDims, SoftmaxAttention, softmax


def explicit(q: Tensor, k: Tensor, key_mask: Tensor | None, causal: bool) -> np.ndarray:
    """a_ij = exp(q_i . k_j / sqrt(d)) over the sum of the same for every visible key."""
    b, h, n, d = q.shape
    m = k.shape[2]
    weights = np.zeros((b, h, n, m))
    for e, head, i in np.ndindex(b, h, n):
        visible = [j for j in range(m) if (not causal or j <= m - n + i) and (key_mask is None or key_mask[e, j])]
        scores = {j: math.exp(float(q[e, head, i].double() @ k[e, head, j].double()) / math.sqrt(d)) for j in visible}
        for j, score in scores.items():
            weights[e, head, i, j] = score / sum(scores.values())
    return weights


@pytest.mark.parametrize("causal", [False, True], ids=["bidirectional", "causal"])
@pytest.mark.parametrize(("queries", "keys"), [(1, 1), (5, 5), (2, 5), (1, 5)])
@pytest.mark.parametrize("padded", [False, True], ids=["full", "padded"])
@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float64, 1e-14), (torch.float32, 1e-6)], ids=str)
def test_weights_and_outputs_are_those_of_the_definition(
    causal: bool, queries: int, keys: int, padded: bool, dtype: torch.dtype, tolerance: float
) -> None:
    attn = SoftmaxAttention(AttentionDims(2, 4, causal))
    q, k = torch.randn(2, 2, queries, 4, dtype=dtype), torch.randn(2, 2, keys, 4, dtype=dtype)
    v = torch.randn(2, 2, keys, 3, dtype=dtype)
    # The second example is padded; with (1, 5) and (2, 5) its queries stand behind the padding.
    key_mask = torch.arange(keys) < torch.tensor([[keys], [max(1, keys - 2)]]) if padded else None
    expected = explicit(q, k, key_mask, causal)
    np.testing.assert_allclose(attn.weights(q, k, key_mask), expected, rtol=0, atol=tolerance)
    np.testing.assert_allclose(attn(q, k, v, key_mask), expected @ v.double().numpy(), rtol=0, atol=10 * tolerance)


@pytest.mark.parametrize(("queries", "keys"), [(7, 7), (5, 8)])
@pytest.mark.parametrize("padded", [False, True], ids=["full", "padded"])
def test_causal_attention_with_a_mask_goes_in_blocks_of_queries_that_change_nothing(
    queries: int, keys: int, padded: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    attn = SoftmaxAttention(AttentionDims(2, 4, causal=True))
    q, k, v = (torch.randn(3, 2, tokens, 4, dtype=torch.float64) for tokens in (queries, keys, keys))
    key_mask = torch.stack([torch.arange(keys) < 5, torch.arange(keys) > 3, torch.rand(keys) < 0.5]) if padded else None
    leaves = [x.requires_grad_() for x in (q, k, v)]
    expected = attn.weights(q, k, key_mask) @ v
    references = torch.autograd.grad(expected.square().sum(), leaves)
    for rows in (1, 2, 3, 7):
        monkeypatch.setattr(softmax, "ROWS", rows)
        actual = attn(q, k, v, key_mask)
        torch.testing.assert_close(actual, expected, rtol=1e-12, atol=1e-14)
        gradients = torch.autograd.grad(actual.square().sum(), leaves)
        torch.testing.assert_close(gradients, references, rtol=1e-10, atol=1e-12)


def test_no_mask_of_all_pairs_is_made() -> None:
    attn = SoftmaxAttention(AttentionDims(1, 4, causal=True))
    tokens = 2048
    with LargestTensor() as record:
        attn(*torch.randn(3, 1, 1, tokens, 4), torch.arange(tokens)[None] > 9)
    assert record.largest == softmax.ROWS * tokens


@pytest.mark.parametrize("queries", [2, 7])
def test_without_causality_queries_and_keys_may_differ_in_number(queries: int) -> None:
    attn = SoftmaxAttention(AttentionDims(1, 4, causal=False))
    q, k = torch.randn(1, 1, queries, 4).double(), torch.randn(1, 1, 5, 4).double()
    np.testing.assert_allclose(attn.weights(q, k), explicit(q, k, None, causal=False), rtol=0, atol=1e-14)


def test_equal_keys_are_attended_to_equally() -> None:
    attn = SoftmaxAttention(AttentionDims(1, 4, causal=False))
    weights = attn.weights(torch.randn(1, 1, 3, 4), torch.ones(1, 1, 8, 4))
    torch.testing.assert_close(weights, torch.full((1, 1, 3, 8), 1 / 8))


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16], ids=str)
def test_long_rows_in_half_precision_sum_to_one(dtype: torch.dtype) -> None:
    attn = SoftmaxAttention(AttentionDims(1, 4, causal=False))
    weights = attn.weights(torch.randn(1, 1, 3, 4, dtype=dtype), torch.randn(1, 1, 4096, 4, dtype=dtype))
    assert weights.dtype == torch.float32
    torch.testing.assert_close(weights.sum(dim=-1), torch.ones(1, 1, 3), rtol=0, atol=1e-5)


def test_large_scores_do_not_overflow() -> None:
    attn = SoftmaxAttention(AttentionDims(1, 1, causal=False))
    q, k = torch.full((1, 1, 1, 1), 100.0), torch.tensor([100.0, 99.0]).view(1, 1, 2, 1)
    expected = torch.tensor([1.0, 0.0]).view(1, 1, 1, 2)
    torch.testing.assert_close(attn.weights(q, k), expected)
    torch.testing.assert_close(attn(q, k, k), torch.full((1, 1, 1, 1), 100.0))
