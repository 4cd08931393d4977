"""Causal linear attention over blocks of chunks: masked products inside a chunk, a running state across chunks.

All chunks of a block are computed side by side: their products with values and keys are batched over chunks, and the
state before each chunk is a running sum over the chunks' own contributions.
"""

from collections.abc import Iterator, Sequence

import torch
from torch import Tensor

from mimicry.attention.features import BlockFeatures
from mimicry.attention.inputs import Tokens
from mimicry.attention.scratch import Scratch, scratch
from mimicry.attention.streaming_blocks import Folded, Gradients, Inputs, inverse_of, normaliser_gradients, write
from mimicry.shapes import KeyState, KVState, Outputs, RowScores, Values

# Tokens per chunk.
CHUNK = 64


def sweep(
    features: BlockFeatures,
    tokens: Tokens,
    block: int,
    out: Outputs,
    inverse: RowScores,
    state: tuple[KVState, KeyState] | None,
    keep: bool,
    start: int = 0,
) -> tuple[list[Folded], tuple[KVState, KeyState]]:
    """Writes outputs and 1 / normaliser; returns the states before each block (if `keep`) and the last one.

    `state` sums the keys before the first one here, which stands at position `start`.
    """
    q, k, v, key_mask = tokens
    memory, f = scratch(features.dtype, v.device), features.maps.key.feature_dim
    if state is None:
        kv = v.new_zeros(v.shape[0] * v.shape[1], f, v.shape[3], dtype=features.dtype)
        total = kv.new_zeros(kv.shape[:2])
    else:
        kv, total = (x.flatten(0, 1) for x in state)
    kept = []
    for at, chunk in _blocks(q.shape[2], block):
        if keep:
            kept.append((kv, total))
        mask = None if key_mask is None else key_mask[:, at]
        phi_q, phi_k, values, numerator = _buffers(v[:, :, at], f, chunk, memory)
        features.write_queries(q[:, :, at].to(features.dtype), start + at.start, _by_row(phi_q), memory)
        features.write_keys(k[:, :, at].to(features.dtype), start + at.start, mask, _by_row(phi_k), memory)
        _by_row(values).copy_(v[:, :, at].unflatten(2, (-1, chunk)))
        rows, keys, of_keys, sums = (x.flatten(0, 2) for x in (phi_q, phi_k, values, numerator))
        scores = _earlier_products(rows, keys, memory)
        torch.bmm(scores, of_keys, out=sums)
        before, kv = _states(keys, of_keys, kv, memory)
        totals_before, total = _running_totals(keys.sum(dim=1), total)
        sums.baddbmm_(rows, before)
        # In place: a product with a vector is several times slower as a batched matrix product.
        denominator = scores.sum(dim=-1).add_(rows.mul_(totals_before[:, None]).sum(dim=-1))
        factor = _by_row(inverse_of(denominator, features.maps.eps).view(*values.shape[:4]))
        inverse[:, :, at] = factor.flatten(2, 3)
        write(out[:, :, at].unflatten(2, factor.shape[2:]), _by_row(numerator), factor)
    return kept, (kv.unflatten(0, v.shape[:2]), total.unflatten(0, v.shape[:2]))


def sweep_backward(
    features: BlockFeatures, inputs: Inputs, kept: Sequence[Folded], block: int, grads: Gradients
) -> None:
    """Writes the gradients of q, k and v, and adds those of the parameters; blocks are taken from the last on."""
    q, k, v, key_mask, out, inverse, grad = inputs
    memory, f = scratch(features.dtype, v.device), features.maps.key.feature_dim
    # Gradients of the state after the current block.
    if not kept:
        return
    of_kv, of_total = (torch.zeros_like(x) for x in kept[0])
    for (at, chunk), (kv, total) in zip(reversed(list(_blocks(q.shape[2], block))), reversed(kept), strict=True):
        mask = None if key_mask is None else key_mask[:, at]
        x_q, x_k = q[:, :, at].to(features.dtype), k[:, :, at].to(features.dtype)
        phi_q, phi_k, values, of_values = _buffers(v[:, :, at], f, chunk, memory)
        features.write_queries(x_q, at.start, _by_row(phi_q), memory)
        features.write_keys(x_k, at.start, mask, _by_row(phi_k), memory)
        split = (2, (-1, chunk))
        _by_row(values).copy_(v[:, :, at].unflatten(*split))
        of_numerator, of_phi_q, of_phi_k = (
            memory.take(name, *x.shape)
            for name, x in (("of_numerator", values), ("of_phi_q", phi_q), ("of_phi_k", phi_k))
        )
        of_denominator = normaliser_gradients(
            grad[:, :, at].unflatten(*split),
            out[:, :, at].unflatten(*split),
            inverse[:, :, at].unflatten(*split),
            _by_row(of_numerator),
            memory,
        )
        of_denominator = of_denominator.permute(2, 0, 1, 3).reshape(-1, chunk, 1)
        rows, keys, of_keys, of_rows = (x.flatten(0, 2) for x in (phi_q, phi_k, values, of_numerator))
        to_rows, to_keys, to_values = (x.flatten(0, 2) for x in (of_phi_q, of_phi_k, of_values))

        torch.bmm(_earlier_products(rows, keys, memory).mT, of_rows, out=to_values)
        after, of_kv_before = _states(rows, of_rows, of_kv, memory, reverse=True)
        to_values.baddbmm_(keys, after)
        grads.v[:, :, at].unflatten(*split).copy_(_by_row(of_values))

        of_scores = _earlier_products(of_rows, of_keys, memory, of_denominator)
        sums = torch.mul(rows, of_denominator, out=to_keys).sum(dim=1)
        totals, of_total = _running_totals(sums, of_total, reverse=True)
        torch.bmm(of_scores.mT, rows, out=to_keys).baddbmm_(of_keys, after.mT).add_(totals[:, None])
        of_kv = of_kv_before

        before, _ = _states(keys, of_keys, kv, memory)
        totals, _ = _running_totals(keys.sum(dim=1), total)
        torch.bmm(of_scores, keys, out=to_rows).baddbmm_(of_rows, before.mT).addcmul_(of_denominator, totals[:, None])
        grads.pull_keys(features, x_k, at, mask, _by_row(phi_k), _by_row(of_phi_k), memory)
        grads.pull_queries(features, x_q, at, _by_row(phi_q), _by_row(of_phi_q), memory)


def _blocks(tokens: int, block: int) -> Iterator[tuple[slice, int]]:
    """Tokens of each block and the length of its chunks; what fills no chunk is a block and a chunk of its own."""
    whole = tokens - tokens % CHUNK
    for first in range(0, whole, block):
        yield slice(first, min(first + block, whole)), CHUNK
    if tokens > whole:
        yield slice(whole, tokens), tokens - whole


def _buffers(v: Values, f: int, chunk: int, memory: Scratch) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Features of queries and of keys, values, and one more of their shape: (chunks, batch, heads, chunk, width)."""
    outer = (v.shape[2] // chunk, *v.shape[:2], chunk)
    phi_q, phi_k = (memory.take(name, *outer, f) for name in ("phi_q", "phi_k"))
    values, others = (memory.take(name, *outer, v.shape[3]) for name in ("values", "numerator"))
    return phi_q, phi_k, values, others


def _by_row(x: Tensor) -> Tensor:
    """(chunks, batch, heads, ...) as (batch, heads, chunks, ...)."""
    return x.movedim(0, 2)


def _earlier_products(rows: Tensor, columns: Tensor, memory: Scratch, bias: Tensor | None = None) -> Tensor:
    """Products of all pairs inside each chunk, plus `bias`, where the column is not after the row; else 0."""
    chunk = rows.shape[1]
    products = torch.bmm(rows, columns.mT, out=memory.take("products", len(rows), chunk, chunk))
    if bias is not None:
        products += bias
    triangle = torch.ones(chunk, chunk, dtype=products.dtype, device=products.device).tril_()
    return products.mul_(triangle)


def _states(
    phi: Tensor, values: Tensor, carried: Tensor, memory: Scratch, reverse: bool = False
) -> tuple[Tensor, Tensor]:
    """Sums of phi^T values over all tokens before (reverse: after) each chunk, and over all of them."""
    chunks, shape = len(phi) // len(carried), (phi.shape[2], values.shape[2])
    sums = memory.take("states", chunks + 1, len(carried), *shape)
    # One slot more than chunks: the carried sum stands at the end that the sums start from.
    parts, shifted = (sums[:-1], sums[1:]) if reverse else (sums[1:], sums[:-1])
    torch.bmm(phi.mT, values, out=parts.flatten(0, 1))
    sums[-1 if reverse else 0] = carried
    order = range(chunks - 1, -1, -1) if reverse else range(1, chunks + 1)
    for this in order:
        # Not +=, which would also copy the sum onto itself.
        sums[this].add_(sums[this + 1 if reverse else this - 1])
    return shifted.flatten(0, 1), sums[0 if reverse else -1].clone()


def _running_totals(parts: Tensor, carried: Tensor, reverse: bool = False) -> tuple[Tensor, Tensor]:
    """The same for sums over tokens that the caller has formed for each chunk."""
    parts = parts.view(-1, *carried.shape)
    ordered = parts.flip(0) if reverse else parts
    sums = torch.cat([carried[None], ordered]).cumsum(dim=0)
    before = sums[:-1].flip(0) if reverse else sums[:-1]
    return before.flatten(0, 1), sums[-1]
