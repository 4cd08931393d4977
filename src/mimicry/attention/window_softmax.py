"""The softmax part of windowed attention: exp(q . k / sqrt(d)) over near keys and sinks, in O(n window)."""

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from mimicry.attention.features import finite
from mimicry.attention.row_sums import RowSums
from mimicry.shapes import KeyMask, Keys, Queries, SinkMask, SinkPositions, Values, Visible

# Least number of queries per block: smaller ones leave the matrix products too little to do.
BLOCK = 64


@dataclass(frozen=True)
class Window:
    """Which keys a query attends to by softmax: those near to it, and the sinks.

    Positions count every token, padding included; the first query stands at the first key, or, when causal, the last
    query at the last key. Sinks are the first tokens that are not padding, so padding on the left does not use them up.
    Source of the sinks: StreamingLLM, arXiv 2309.17453, Sec. 3.

    Args:
        size: tokens from a query to the first key beyond, itself included, >= 1: keys j with i - size < j <= i when
            causal, |i - j| < size otherwise.
        num_sinks: first tokens that stay in sight of every later query, >= 0.
        causal: whether query i may attend only to keys j <= i.

    Raises:
        ValueError: if size or num_sinks is too small.
    """

    size: int
    num_sinks: int
    causal: bool

    def __post_init__(self) -> None:
        if self.size < 1:
            raise ValueError(f"window must be >= 1, got {self.size}")
        if self.num_sinks < 0:
            raise ValueError(f"num_sinks must be >= 0, got {self.num_sinks}")

    def sinks(self, key_mask: KeyMask) -> KeyMask:
        """True for the sinks of each example."""
        return key_mask & (key_mask.cumsum(dim=1) <= self.num_sinks)

    def covers(self, distance: Tensor) -> Tensor:
        """Whether a key at this distance is in the window."""
        return (distance > -self.size) & (distance < (1 if self.causal else self.size))

    def split(self, queries: int, keys: int, key_mask: KeyMask) -> tuple[Visible, Visible]:
        """Masks of all pairs: what softmax attends to, and what lies beyond it."""
        first = keys - queries if self.causal else 0
        distance = distances(queries, torch.arange(keys, device=key_mask.device) - first)
        visible = key_mask[:, None, :] & (
            (distance <= 0) if self.causal else torch.ones_like(distance, dtype=torch.bool)
        )
        near = visible & (self.covers(distance) | self.sinks(key_mask)[:, None, :])
        return near[:, None], (visible & ~near)[:, None]


@dataclass(frozen=True)
class Sinks:
    """The sinks of each example, as many as there may be.

    Args:
        k: their keys.
        v: their values.
        at: their positions.
        found: False where the text has no such token so far; the rest then means nothing.
    """

    k: Keys
    v: Values
    at: SinkPositions
    found: SinkMask

    @classmethod
    def none(cls, k: Keys, v: Values, num_sinks: int) -> "Sinks":
        """Nothing found yet, for keys and values like these."""
        at = torch.zeros(k.shape[0], num_sinks, dtype=torch.long, device=k.device)
        k, v = (x.new_zeros(*x.shape[:2], num_sinks, x.shape[3]) for x in (k, v))
        return cls(k, v, at, torch.zeros_like(at, dtype=torch.bool))

    def extended(self, k: Keys, v: Values, key_mask: KeyMask, start: int) -> "Sinks":
        """With those among later tokens, the first of which is at position `start`."""
        if k.shape[2] == 0 or bool(self.found.all()):
            return self
        # Which of the new tokens that are not padding comes next: the first, second, ...
        wanted = torch.arange(1, self.at.shape[1] + 1, device=k.device) - self.found.sum(dim=1, keepdim=True)
        new = torch.searchsorted(key_mask.cumsum(dim=1), wanted)
        found_now = ~self.found & (new < k.shape[2])
        chosen, new_here = new.clamp(max=k.shape[2] - 1)[:, None, :, None], found_now[:, None, :, None]
        new_k, new_v = (x.gather(2, chosen.expand(-1, x.shape[1], -1, x.shape[3])) for x in (k, v))
        return Sinks(
            k=torch.where(new_here, new_k, self.k),
            v=torch.where(new_here, new_v, self.v),
            at=torch.where(found_now, start + new, self.at),
            found=self.found | found_now,
        )

    def to(self, dtype: torch.dtype, start: int) -> "Sinks":
        """The same in this dtype, with positions that count from `start`."""
        return Sinks(self.k.to(dtype), self.v.to(dtype), self.at - start, self.found)

    def reorder(self, rows: Tensor) -> "Sinks":
        """Those of other examples, repeated or left out as `rows` (integers, one dimension) says."""
        k, v, at, found = (x.index_select(0, rows) for x in (self.k, self.v, self.at, self.found))
        return Sinks(k, v, at, found)


def softmax_sums(
    q: Queries, k: Keys, v: Values, key_mask: KeyMask, window: Window, sinks: Sinks | None = None
) -> list[RowSums]:
    """Sums of exp(q . k / sqrt(d)) over the window, and over the sinks that lie outside of it.

    The sinks are found among the keys unless they are given, with positions that count from the first key.
    """
    q = q * q.shape[3] ** -0.5
    if sinks is not None and q.shape[2] == 1 and window.causal:
        return [_newest_sums(q, k, v, key_mask, window, sinks)]
    near = _window_sums(q, k, v, key_mask, window)
    if window.num_sinks == 0:
        return [near]
    if sinks is None:
        sinks = Sinks.none(k, v, window.num_sinks).extended(k, v, key_mask, 0)
    return [near, _sink_sums(q, sinks, k.shape[2] - q.shape[2] if window.causal else 0, window)]


def _newest_sums(q: Queries, k: Keys, v: Values, key_mask: KeyMask, window: Window, sinks: Sinks) -> RowSums:
    """The query of the last key against its window and the sinks before it, in one product."""
    first = max(0, k.shape[2] - window.size)
    visible = torch.cat([sinks.found & (sinks.at < first), key_mask[:, first:]], dim=1)
    keys, values = torch.cat([sinks.k, k[:, :, first:]], dim=2), torch.cat([sinks.v, v[:, :, first:]], dim=2)
    powers, denominator, shift = _powers(q @ keys.mT, visible[:, None, None])
    return RowSums(powers @ values, denominator, shift)


def _window_sums(q: Queries, k: Keys, v: Values, key_mask: KeyMask, window: Window) -> RowSums:
    """Blocks of queries, each against the keys that any of them has in its window."""
    n, m = q.shape[2], k.shape[2]
    # A window that is longer than the sequence needs no more padding than one that covers it.
    reach = min(window.size, max(n, m, 1)) - 1
    block = max(1, min(n, max(BLOCK, reach + 1)))
    blocks = max(1, -(-n // block))
    first = m - n if window.causal else 0
    after = 0 if window.causal else reach
    span = reach + block + after
    # Keys from `reach` before the first query to `after` behind the last one; a negative number crops.
    ends = (reach - first, first + blocks * block + after - m)
    near_k, near_v = (F.pad(x, (0, 0, *ends)).unfold(2, span, block) for x in (k, v))
    present = F.pad(key_mask, ends).unfold(1, span, block)[:, None, :, None, :]
    queries = torch.unflatten(F.pad(q, (0, 0, 0, blocks * block - n)), 2, (blocks, block))
    covered = window.covers(distances(block, torch.arange(span, device=q.device) - reach))
    scores = torch.einsum("bhtnd,bhtdm->bhtnm", queries, near_k)
    powers, denominator, shift = _powers(scores, present & covered)
    numerator = torch.einsum("bhtnm,bhtem->bhtne", powers, near_v)
    return RowSums(*(x.flatten(2, 3)[:, :, :n] for x in (numerator, denominator, shift)))


def _sink_sums(q: Queries, sinks: Sinks, first: int, window: Window) -> RowSums:
    """All queries, from position `first` on, against those sinks that lie outside of their window."""
    distance = distances(q.shape[2], sinks.at - first)
    visible = sinks.found[:, None, :] & ~window.covers(distance)
    if window.causal:
        visible = visible & (distance <= 0)
    scores = torch.einsum("bhnd,bhmd->bhnm", q, sinks.k)
    powers, denominator, shift = _powers(scores, visible[:, None])
    return RowSums(powers @ sinks.v, denominator, shift)


def distances(queries: int, positions: Tensor) -> Tensor:
    """Position of a key minus that of a query, (..., queries, keys); key positions count from the first query."""
    return positions[..., None, :] - torch.arange(queries, device=positions.device)[:, None]


def _powers(scores: Tensor, visible: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """exp(score - largest visible score of the row), 0 where not visible; their sums over the last axis; the shift."""
    scores = scores.masked_fill(~visible, -torch.inf)
    shift = finite(scores.detach().amax(dim=-1))
    powers = (scores - shift[..., None]).exp()
    return powers, powers.sum(dim=-1), shift
