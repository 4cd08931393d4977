"""The linear part of windowed attention: phi(q) . phi(k) over the keys beyond the window, in O(n).

Keys that lie at least `size` positions back are what causal linear attention sees when keys arrive `size` tokens late.
Those as far ahead are the same with time reversed. Nothing is formed for all keys and subtracted for the near ones:
the difference of two large sums would be lost to rounding.
"""

import torch
import torch.nn.functional as F
from torch import Tensor

from mimicry.attention.features import COMMON_RANGE, finite
from mimicry.attention.row_sums import RowSums
from mimicry.attention.state import LinearState
from mimicry.shapes import LogKeyFeatures, QueryFeatures, Values

# Tokens per chunk; inside, scores of all pairs are formed.
CHUNK = 64


def linear_sums(
    log_q: QueryFeatures, log_k: LogKeyFeatures, v: Values | None, size: int, causal: bool
) -> list[RowSums]:
    """Sums of exp(log_q_i) . exp(log_k_j) over j <= i - size and, unless causal, over j >= i + size.

    Args:
        log_q: log-features of queries.
        log_k: of keys; those that count for nothing have -inf.
        v: None for the identity.
        size: of the window, >= 1.
        causal: queries are the last positions of the keys; otherwise they start where the keys do.
    """
    if causal:
        return [_older(log_q, log_k, v, size)]
    n, m = log_q.shape[2], log_k.shape[2]
    length = max(n, m)
    log_q = F.pad(log_q, (0, 0, 0, length - n))
    log_k = F.pad(log_k, (0, 0, 0, length - m), value=-torch.inf)
    values = None if v is None else F.pad(v, (0, 0, 0, length - m))
    older = _older(log_q, log_k, values, size)
    newer = _older(log_q.flip(2), log_k.flip(2), None if values is None else values.flip(2), size)
    turned = (2,) if values is not None else (2, 3)
    newer = RowSums(newer.numerator.flip(turned), newer.denominator.flip(2), newer.shift.flip(2))
    width = m if v is None else v.shape[3]
    return [
        RowSums(part.numerator[:, :, :n, :width], part.denominator[:, :, :n], part.shift[:, :, :n])
        for part in (older, newer)
    ]


def sums_after(
    log_q: QueryFeatures, log_k: LogKeyFeatures, v: Values, before: LinearState | None, after: LinearState | None
) -> RowSums:
    """Sums over the keys in a state, and over later ones: the last query sees them all, each before it one less.

    Args:
        log_q: log-features of queries.
        log_k: of the later keys; those that count for nothing have -inf.
        v: values of the later keys.
        before: the state without them.
        after: the state with them.
    """
    assert before is not None
    assert after is not None
    assert before.shift is not None
    assert after.shift is not None
    if log_q.shape[2] == 1:
        # It sees them all: one product with the new state.
        log_q = log_q + after.shift
        row = finite(log_q.amax(dim=-1))
        phi = (log_q - row[..., None]).exp()
        return RowSums(phi @ after.kv, (phi @ after.k[..., None]).squeeze(-1), row)
    late = log_q.shape[2] - log_k.shape[2]
    log_k, v = F.pad(log_k, (0, 0, late, 0), value=-torch.inf), F.pad(v, (0, 0, late, 0))
    kv = torch.cat([before.kv, before.k[..., None]], dim=3)
    return RowSums(*_causal_sums(log_q, log_k, v, (kv, before.shift)))


def _older(log_q: QueryFeatures, log_k: LogKeyFeatures, v: Values | None, size: int) -> RowSums:
    """Sums over keys at least `size` positions before the query; queries are the last positions of the keys."""
    keys = max(0, log_k.shape[2] - size)
    rows = min(log_q.shape[2], keys)
    blind = log_q.shape[2] - rows
    late_q, late_k = log_q[:, :, blind:], log_k[:, :, :keys]
    if v is None:
        numerator, denominator, shift = _causal_pairs(late_q, late_k)
        numerator = F.pad(numerator, (0, log_k.shape[2] - keys))
    else:
        numerator, denominator, shift = _causal_sums(late_q, late_k, v[:, :, :keys])
    return RowSums(F.pad(numerator, (0, 0, blind, 0)), F.pad(denominator, (blind, 0)), F.pad(shift, (blind, 0)))


def _causal_sums(
    log_q: Tensor, log_k: Tensor, v: Tensor, before: tuple[Tensor, Tensor] | None = None
) -> tuple[Tensor, Tensor, Tensor]:
    """Numerators, denominators and shifts over all keys up to the query's own, from chunks of the last keys.

    `before` has the state of keys before the first: sums of scores times values and ones, and their shifts.
    """
    n = log_q.shape[2]
    past = log_k.shape[2] - n
    size = max(1, min(n, CHUNK))
    chunks = max(1, -(-n // size))
    short = chunks * size - n
    # With a column of ones, the sums of scores come out of the same products.
    v = torch.cat([v, v.new_ones(*v.shape[:3], 1)], dim=3)
    queries = torch.unflatten(F.pad(log_q, (0, 0, 0, short)), 2, (chunks, size))
    keys = torch.unflatten(F.pad(log_k[:, :, past:], (0, 0, 0, short), value=-torch.inf), 2, (chunks, size))
    values = torch.unflatten(F.pad(v[:, :, past:], (0, 0, 0, short)), 2, (chunks, size))
    # Per feature, the largest exponent before each chunk.
    if before is None:
        start = _largest(log_k[:, :, :past])
        before = (torch.einsum("bhmf,bhme->bhfe", (log_k[:, :, :past] - finite(start)).exp(), v[:, :, :past]), start)
    state, start = before
    tops = torch.cat([start, keys.detach().amax(dim=3)], dim=2).cummax(dim=2).values
    added = (keys[:, :, :-1] - finite(tops[:, :, 1:-1, None])).exp()
    added = torch.einsum("bhtmf,bhtme->bhtfe", added, values[:, :, :-1])
    fading = (tops[:, :, :-2] - finite(tops[:, :, 1:-1])).exp()
    states = [state]
    for new, fade in zip(added.unbind(2), fading.unbind(2), strict=True):
        states.append(states[-1] * fade[..., None] + new)
    scores, phi_q, shift = _pairs(queries, keys, tops[:, :, :-1, None])
    sums = torch.einsum("bhtnm,bhtme->bhtne", scores, values)
    sums = sums + torch.einsum("bhtnf,bhtfe->bhtne", phi_q, torch.stack(states, dim=2))
    sums, shift = sums.flatten(2, 3)[:, :, :n], shift.flatten(2)[:, :, :n]
    return sums[..., :-1], sums[..., -1], shift


def _causal_pairs(log_q: Tensor, log_k: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Scores of all pairs, their sums per row, and the shifts."""
    past = log_k.shape[2] - log_q.shape[2]
    before = log_k[:, :, :past]
    start = _largest(before)
    scores, phi_q, shift = _pairs(log_q, log_k[:, :, past:], start)
    earlier = torch.einsum("bhnf,bhmf->bhnm", phi_q, (before - finite(start)).exp())
    scores = torch.cat([earlier, scores], dim=3)
    return scores, scores.sum(dim=-1), shift


def _pairs(queries: Tensor, keys: Tensor, top: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Scores between tokens of a chunk, query features for the state before it, and the row shift taken from both.

    `top` has the largest exponent per feature before the chunk. Axes: (..., tokens, features).
    """
    # Per row and feature, the largest exponent among the keys it may attend to: no later key may touch a row.
    seen = torch.maximum(keys.detach().cummax(dim=-2).values, top)
    row = finite((queries.detach() + seen).amax(dim=-1, keepdim=True))
    largest = _largest(keys)
    blind = seen.isneginf()
    # One shift for the chunk serves as long as no row would have to undo more of it than float32 can.
    if bool(((largest - seen).masked_fill(blind, 0.0) <= COMMON_RANGE).all()):
        shift = finite(largest)
        phi_q = (queries + shift - row).masked_fill(blind, -torch.inf).exp()
        scores = (phi_q @ (keys - shift).exp().mT).tril()
    else:
        scores = _by_halves(queries, keys, row)
    return scores, (queries + top - row).exp(), row.squeeze(-1)


def _by_halves(queries: Tensor, keys: Tensor, row: Tensor) -> Tensor:
    """Scores of all causal pairs whatever their exponents, without a tensor of pairs times features.

    All queries of the second half see all keys of the first: one shift serves them, exactly. The rest is two problems
    of half the size.
    """
    tokens = queries.shape[-2]
    if tokens == 1:
        return (queries + keys - row).exp().sum(dim=-1, keepdim=True)
    half = -(-tokens // 2)
    odd = (0, 0, 0, 2 * half - tokens)
    # What fills up the second half counts for nothing, on either side of a product.
    queries, keys = (torch.unflatten(F.pad(x, odd, value=-torch.inf), -2, (2, half)) for x in (queries, keys))
    row = torch.unflatten(F.pad(row, odd), -2, (2, half))
    first, second = _by_halves(queries, keys, row).unbind(-3)
    earlier, later = keys[..., 0, :, :], queries[..., 1, :, :]
    shift = _largest(earlier)
    across = (later + shift - row[..., 1, :, :]).exp() @ (earlier - finite(shift)).exp().mT
    upper, lower = torch.cat([first, torch.zeros_like(first)], dim=-1), torch.cat([across, second], dim=-1)
    return torch.cat([upper, lower], dim=-2)[..., :tokens, :tokens]


def _largest(log_k: Tensor) -> Tensor:
    """Largest exponent per feature over the tokens, one row; -inf where there are none. A constant."""
    start = log_k.new_full((*log_k.shape[:-2], 1, log_k.shape[-1]), -torch.inf)
    return torch.cat([start, log_k.detach()], dim=-2).amax(dim=-2, keepdim=True)
