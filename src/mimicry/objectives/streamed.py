"""The attention distillation loss from projected states and features: no tensor holds the weights of all pairs."""

import torch
from torch import Tensor

from mimicry.objectives.given import with_gradients
from mimicry.objectives.tiles import TileWalk, sight
from mimicry.shapes import GroupedKeyFeatures, GroupedKeys, KeyMask, Queries, QueryFeatures, QueryMask, Scalar

# Queries per block: enough rows for matrix products to be efficient, few enough for scores of long rows to stay cached.
BLOCK = 128


def streamed_soft_cross_entropy(
    q: Queries,
    k: GroupedKeys,
    phi_q: QueryFeatures,
    phi_k: GroupedKeyFeatures,
    causal: bool,
    key_mask: KeyMask | None = None,
    query_mask: QueryMask | None = None,
    block: int = BLOCK,
) -> tuple[Scalar, Scalar]:
    """`soft_cross_entropy` of linear attention under softmax attention, in memory linear in the number of tokens.

    loss_i = log sum_j P_ij - sum_j a_ij log P_ij with P_ij = phi_q_i . phi_k_j and a the teacher's softmax weights.
    The gradient of P_ij, 1 / sum_j P_ij - a_ij / P_ij, is formed and used up in the same walk over blocks of queries
    as the loss. Sums are in at least float32; a P_ij below its smallest normal number counts as that number.

    Args:
        q: the teacher's projected queries, before its scale 1/sqrt(d); no gradient flows into them.
        k: its projected keys, one head for every h / t consecutive query heads; no gradient flows into them.
        phi_q: the student's features of the queries, non-negative; each query's may be off by a factor of its own.
        phi_k: its features of the keys, non-negative, one head for every h / s consecutive query heads.
        causal: query i sees keys j <= i only; with fewer queries than keys they are the last positions.
        key_mask: True for keys that may be attended to. A query that sees none costs nothing.
        query_mask: True for queries that count; padded ones are left out of the mean.
        block: queries walked at a time, >= 1. It bounds memory and changes nothing but rounding.

    Returns:
        The loss, through which one may go backward once, and its least value, the teacher's entropy, a constant. Both
        are means over batch, heads and counted queries, in nats.

    Raises:
        ValueError: if sizes or masks do not fit together, or no query counts.

    Source: arXiv 2402.04347, Eq. 4.
    """
    _check(q, k, phi_q, phi_k, causal, key_mask, query_mask, block)
    dtype = torch.promote_types(torch.promote_types(q.dtype, phi_q.dtype), torch.float32)
    phi_q, phi_k = phi_q.to(dtype), phi_k.to(dtype)
    trains = torch.is_grad_enabled() and (phi_q.requires_grad or phi_k.requires_grad)
    with torch.no_grad(), torch.autocast(q.device.type, enabled=False):
        counted = q.shape[0] * q.shape[2] if query_mask is None else int(query_mask.sum())
        gradients = (torch.zeros_like(phi_q), torch.zeros_like(phi_k)) if trains else None
        walk = TileWalk((q, k, phi_q, phi_k), gradients, share=1 / (counted * q.shape[1]), block=block)
        for index in range(q.shape[0]):
            masks = [None if mask is None else mask[index] for mask in (key_mask, query_mask)]
            walk.over(index, sight(q[index], k[index], causal, *masks))
        loss, entropy = torch.stack(walk.losses).sum(), torch.stack(walk.entropies).sum()
    if gradients is not None:
        loss = with_gradients(loss, [phi_q, phi_k], gradients)
    return loss, entropy


def _check(
    q: Tensor,
    k: Tensor,
    phi_q: Tensor,
    phi_k: Tensor,
    causal: bool,
    key_mask: Tensor | None,
    query_mask: Tensor | None,
    block: int,
) -> None:
    batch, heads, n, m = *q.shape[:3], k.shape[2]
    if phi_q.shape[:3] != q.shape[:3]:
        raise ValueError(
            f"phi_q must have batch, heads and tokens of q, {tuple(q.shape[:3])}, got {tuple(phi_q.shape)}"
        )
    for name, x, width in (("k", k, q.shape[3]), ("phi_k", phi_k, phi_q.shape[3])):
        if (x.shape[0], x.shape[2], x.shape[3]) != (batch, m, width) or x.shape[1] < 1 or heads % x.shape[1]:
            expected = f"({batch}, a divisor of {heads}, {m}, {width})"
            raise ValueError(f"{name} must be of shape {expected}, got {tuple(x.shape)}")
    if min(batch, n, m) < 1:
        raise ValueError(f"q and k must hold at least one token each, got {tuple(q.shape)} and {tuple(k.shape)}")
    if causal and n > m:
        raise ValueError(f"q must have at most as many tokens as k ({m}) when causal, got {n}")
    for name, mask, tokens in (("key_mask", key_mask, m), ("query_mask", query_mask, n)):
        if mask is not None and (mask.dtype != torch.bool or mask.shape != (batch, tokens)):
            raise ValueError(f"{name} must be bool of shape {(batch, tokens)}, got {mask.dtype} {tuple(mask.shape)}")
    if query_mask is not None and not query_mask.any():
        raise ValueError("query_mask must keep at least one query, got none")
    if block < 1:
        raise ValueError(f"block must be >= 1, got {block}")
