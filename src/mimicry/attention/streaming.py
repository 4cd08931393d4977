"""Linear attention in one pass over blocks of tokens, with its own backward pass: what `backend="chunked"` runs.

Features live for one block only and are computed again in the backward pass; besides inputs and outputs, training
keeps one number per query and one state per block. Source of the chunked form: arXiv 2006.16236, Sec. 3.3, and
arXiv 2312.06635, Sec. 3; the blocking is tuned on CPUs (`benchmarks/attention.py`).
"""

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from mimicry.attention.features import BlockFeatures
from mimicry.attention.inputs import Tokens
from mimicry.attention.streaming_bidirectional import read_all, read_all_backward, sum_keys
from mimicry.attention.streaming_blocks import Gradients, by_parameter, parameters_of
from mimicry.attention.streaming_causal import sweep, sweep_backward
from mimicry.shapes import KeyMask, Keys, Outputs, Queries, Values

# Features per block: few enough that a block stays in a CPU's caches, enough that calls are not dear.
FEATURES = 6144 * 128
# Most tokens per block, and the least unless the sequence is shorter.
LONGEST_BLOCK, SHORTEST_BLOCK = 512, 64


def streaming_attention(features: BlockFeatures, tokens: Tokens, causal: bool) -> Outputs:
    """Attention outputs in the dtype of `v`; causal needs as many queries as keys. Rows that see no key give 0."""
    parameters = parameters_of(features.maps)
    outputs: Outputs = _Streaming.apply(features, causal, *tokens, *parameters)  # type: ignore[no-untyped-call]
    return outputs


def batches(shape: torch.Size, tokens: int, feature_dim: int) -> Iterator[tuple[slice, int]]:
    """Slices of the batch that go together, and how many tokens of them make a block."""
    batch, heads = shape[:2]
    rows = max(1, FEATURES // (heads * feature_dim))
    together = max(1, rows // max(1, min(tokens, LONGEST_BLOCK)))
    length = rows // together // SHORTEST_BLOCK * SHORTEST_BLOCK
    for first in range(0, batch, together):
        yield slice(first, first + together), max(SHORTEST_BLOCK, min(LONGEST_BLOCK, length))


class _Streaming(torch.autograd.Function):
    """Inputs: features, causal, q, k, v, key_mask, then every parameter of both maps once."""

    @staticmethod
    def forward(
        ctx: Any,
        features: BlockFeatures,
        causal: bool,
        q: Queries,
        k: Keys,
        v: Values,
        key_mask: KeyMask | None,
        *parameters: Tensor,
    ) -> Outputs:
        out = v.new_empty((*q.shape[:3], v.shape[3]))
        inverse = q.new_empty(q.shape[:3], dtype=features.dtype)
        keep = any(ctx.needs_input_grad)
        states = []
        for rows, block in _batches(features, q, k):
            some, tokens = features.rows(rows), Tokens(q, k, v, key_mask).rows(rows)
            if causal:
                kept, _ = sweep(some, tokens, block, out[rows], inverse[rows], None, keep)
            else:
                kept = [sum_keys(some, tokens.k, tokens.v, tokens.key_mask, block)]
                read_all(some, tokens.q, kept[0], block, out[rows], inverse[rows])
            states.append(kept)
        if keep:
            ctx.save_for_backward(q, k, v, key_mask, out, inverse)
            ctx.features, ctx.causal, ctx.states = features, causal, states
        return out

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        q, k, v, key_mask, out, inverse = ctx.saved_tensors
        features = ctx.features
        of_q, of_k, of_v = (torch.empty(x.shape, dtype=x.dtype, device=x.device) for x in (q, k, v))
        totals = [
            {name: torch.zeros_like(p, dtype=features.dtype) for name, p in feature_map.named_parameters()}
            for feature_map in (features.maps.query, features.maps.key)
        ]
        for (rows, block), states in zip(_batches(features, q, k), ctx.states, strict=True):
            inputs = (*Tokens(q, k, v, key_mask).rows(rows), out[rows], inverse[rows], grad[rows])
            grads = Gradients(of_q[rows], of_k[rows], of_v[rows], *totals)
            if ctx.causal:
                sweep_backward(features.rows(rows), inputs, states, block, grads)
            else:
                read_all_backward(features.rows(rows), inputs, states[0], block, grads)
        return (None, None, of_q, of_k, of_v, None, *by_parameter(features.maps, totals))


def _batches(features: BlockFeatures, q: Queries, k: Keys) -> Iterator[tuple[slice, int]]:
    return batches(q.shape, max(q.shape[2], k.shape[2]), features.maps.key.feature_dim)
