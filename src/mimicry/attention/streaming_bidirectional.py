"""Bidirectional linear attention over blocks: all keys are summed into one state that every query reads."""

import torch

from mimicry.attention.features import BlockFeatures
from mimicry.attention.scratch import scratch
from mimicry.attention.streaming_blocks import Folded, Gradients, Inputs, inverse_of, normaliser_gradients, write
from mimicry.shapes import KeyMask, Keys, Outputs, Queries, RowScores, Values


def sum_keys(features: BlockFeatures, k: Keys, v: Values, key_mask: KeyMask | None, block: int) -> Folded:
    """Sums of phi(k) v^T and of phi(k) over all visible keys."""
    memory = scratch(features.dtype, v.device)
    batch, heads, tokens, width = v.shape
    f = features.maps.key.feature_dim
    kv, total = v.new_empty(batch * heads, f, width, dtype=features.dtype), None
    for first in range(0, tokens, block):
        at = slice(first, first + block)
        mask = None if key_mask is None else key_mask[:, at]
        values = v[:, :, at].to(features.dtype).flatten(0, 1)
        phi = memory.take("phi", batch, heads, 1, values.shape[1], f)
        features.write_keys(k[:, :, at].to(features.dtype), first, mask, phi, memory)
        rows = phi.flatten(0, 2)
        if total is None:
            torch.bmm(rows.mT, values, out=kv)
            total = rows.sum(dim=1)
        else:
            kv.baddbmm_(rows.mT, values)
            total += rows.sum(dim=1)
    return (kv.zero_(), kv.new_zeros(kv.shape[:2])) if total is None else (kv, total)


def read_all(features: BlockFeatures, q: Queries, state: Folded, block: int, out: Outputs, inverse: RowScores) -> None:
    """Writes the outputs and 1 / normaliser of every query."""
    memory = scratch(features.dtype, q.device)
    kv, total = state
    for first in range(0, q.shape[2], block):
        at = slice(first, first + block)
        numerator = memory.take("numerator", *out[:, :, at].shape)
        phi = memory.take("phi", *numerator.shape[:2], 1, numerator.shape[2], kv.shape[1])
        features.write_queries(q[:, :, at].to(features.dtype), first, phi, memory)
        torch.bmm(phi.flatten(0, 2), kv, out=numerator.flatten(0, 1))
        # In place: a product with a vector is several times slower as a batched matrix product.
        denominator = phi.flatten(0, 2).mul_(total[:, None]).sum(dim=-1)
        inverse[:, :, at] = inverse_of(denominator, features.maps.eps).view_as(inverse[:, :, at])
        write(out[:, :, at], numerator, inverse[:, :, at])


def read_all_backward(features: BlockFeatures, inputs: Inputs, state: Folded, block: int, grads: Gradients) -> None:
    """Writes the gradients of q, k and v, and adds those of the parameters."""
    q, k, v, key_mask, out, inverse, grad = inputs
    memory = scratch(features.dtype, q.device)
    kv, total = state
    of_kv, of_total = torch.zeros_like(kv), torch.zeros_like(total)
    for first in range(0, q.shape[2], block):
        at = slice(first, first + block)
        x = q[:, :, at].to(features.dtype)
        phi, of_phi = (memory.take(name, *x.shape[:2], 1, x.shape[2], kv.shape[1]) for name in ("phi", "of_phi"))
        features.write_queries(x, first, phi, memory)
        of_numerator = memory.take("of_numerator", *grad[:, :, at].shape)
        of_denominator = normaliser_gradients(
            grad[:, :, at], out[:, :, at], inverse[:, :, at], of_numerator, memory
        ).flatten(0, 1)[..., None]
        flat, of_flat, of_rows = phi.flatten(0, 2), of_phi.flatten(0, 2), of_numerator.flatten(0, 1)
        of_kv.baddbmm_(flat.mT, of_rows)
        of_total += torch.mul(flat, of_denominator, out=of_flat).sum(dim=1)
        torch.bmm(of_rows, kv.mT, out=of_flat).addcmul_(of_denominator, total[:, None])
        grads.pull_queries(features, x, at, phi, of_phi, memory)
    for first in range(0, k.shape[2], block):
        at = slice(first, first + block)
        mask = None if key_mask is None else key_mask[:, at]
        x, values = k[:, :, at].to(features.dtype), v[:, :, at].to(features.dtype).flatten(0, 1)
        phi, of_phi = (memory.take(name, *x.shape[:2], 1, x.shape[2], kv.shape[1]) for name in ("phi", "of_phi"))
        features.write_keys(x, first, mask, phi, memory)
        torch.bmm(values, of_kv.mT, out=of_phi.flatten(0, 2)).add_(of_total[:, None])
        of_values = memory.take("of_values", *v[:, :, at].shape)
        torch.bmm(phi.flatten(0, 2), of_kv, out=of_values.flatten(0, 1))
        grads.v[:, :, at] = of_values
        grads.pull_keys(features, x, at, mask, phi, of_phi, memory)
