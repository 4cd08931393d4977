"""Weights of one layer, a block of queries at a time: no tensor holds those of all pairs of a long text."""

from collections.abc import Iterator
from dataclasses import dataclass

import torch

from mimicry.attention import Attention, LinearAttention
from mimicry.attention.softmax import SoftmaxAttention
from mimicry.shapes import KeyMask, Keys, Queries, Scores, Visible, Weights

# Weights held at a time, of all heads and rows of the batch together.
PAIRS = 2**22


@dataclass(frozen=True)
class WeightRows:
    """Some queries of a layer: which, the keys that any of them sees, and which sees which.

    Attributes:
        queries: a slice of the queries.
        keys: a slice of the keys, from the first one.
        weights: of shape (batch, heads, queries, keys).
        visible: keys that each query may attend to, (batch, 1, queries, keys).
    """

    queries: slice
    keys: slice
    weights: Weights
    visible: Visible


def weight_rows(
    layer: Attention, q: Queries, k: Keys, key_mask: KeyMask | None = None, block: int | None = None
) -> Iterator[WeightRows]:
    """The rows of `layer.weights(q, k, key_mask)`, in blocks of queries.

    A bidirectional layer that knows positions (cosFormer's, or with a window) counts them from its first query, so that
    its later blocks are computed with all queries before them: its memory is bounded by n x n of one example.

    Args:
        layer: computes the weights, in its own precision.
        q: queries.
        k: keys.
        key_mask: True where a key may be attended to.
        block: queries at a time, >= 1; None takes as many as keep PAIRS weights in memory. It changes only rounding.

    Raises:
        ValueError: if block is below 1, or the layer refuses its inputs.
    """
    n, m = q.shape[2], k.shape[2]
    if block is None:
        block = queries_at_a_time(q, k)
    if block < 1:
        raise ValueError(f"block must be >= 1, got {block}")
    for start in range(0, n, block):
        rows = slice(start, min(start + block, n))
        # No causal row of the block sees a key beyond its last one.
        keys = slice(0, m - n + rows.stop if layer.dims.causal else m)
        before = 0 if layer.dims.causal or _forgets_positions(layer) else rows.start
        mask = None if key_mask is None else key_mask[:, keys]
        queries, seen = q[:, :, rows.start - before : rows.stop], k[:, :, keys]
        weights = layer.weights(queries, seen, mask)[:, :, before:]
        visible = layer.visible(queries[:, :, before:], seen, mask)
        if visible is None:
            visible = torch.ones(1, 1, 1, seen.shape[2], dtype=torch.bool, device=k.device)
        shape = (q.shape[0], 1, rows.stop - rows.start, seen.shape[2])
        yield WeightRows(rows, keys, weights, visible.expand(shape))


def queries_at_a_time(q: Queries, k: Keys) -> int:
    """As many as keep PAIRS weights in memory, at least one."""
    return max(1, PAIRS // max(1, q.shape[0] * q.shape[1] * k.shape[2]))


def scaled_scores(q: Queries, k: Keys) -> Scores:
    """q_i . k_j / sqrt(d): what softmax exponentiates."""
    return torch.einsum("bhnd,bhmd->bhnm", q * q.shape[-1] ** -0.5, k)


def _forgets_positions(layer: Attention) -> bool:
    """Whether a query gives the same weights wherever it stands, causality aside."""
    # Maps that know positions are those that have a longest sequence.
    return type(layer) is SoftmaxAttention or (type(layer) is LinearAttention and layer.max_length is None)
