"""Features of queries and keys block by block, with exponents shifted so that none overflows and no weight changes."""

from dataclasses import dataclass, replace

import torch
from torch import Tensor

from mimicry.attention.feature_maps.base import FeatureMap, LogFeatureMap, pulled_back
from mimicry.attention.inputs import Maps
from mimicry.attention.scratch import Scratch
from mimicry.shapes import (
    ChunkFeatures,
    HeadStates,
    KeyFeatures,
    KeyMask,
    Keys,
    LogKeyFeatures,
    PerFeature,
    Queries,
    QueryFeatures,
)

# Up to this |exponent| of queries and keys plain features serve: products and sums stay within float32's e^-87 .. e^88,
# and rows sum to more than the default eps, e^-69.
PLAIN_RANGE = 30.0
# A key may be this far below the largest exponent of its feature when one shift serves all causal rows.
COMMON_RANGE = 60.0
# Tokens per block when only maxima are wanted.
BLOCK = 1024


@dataclass(frozen=True)
class BlockFeatures:
    """How blocks of tokens of one layer become features.

    With a shift m per feature, keys give exp(log phi(k) - m) and queries exp(log phi(q) + m - r), r their own largest
    exponent. Both factors cancel in the normalised weights, so they are constants to autograd.

    Args:
        maps: of the layer.
        shift: m, or None for the maps as they are.
        dtype: of the features, float32 or float64.
    """

    maps: Maps
    shift: PerFeature | None
    dtype: torch.dtype

    def rows(self, batch: slice) -> "BlockFeatures":
        """The same for some rows of the batch."""
        return self if self.shift is None else replace(self, shift=self.shift[batch])

    def write_queries(self, q: Queries, start: int, out: ChunkFeatures, memory: Scratch) -> None:
        """Writes the features of queries, the first of them at position `start`; no gradients."""
        if self.shift is None:
            self.maps.query.write_chunks(q, start, out, memory)
            return
        assert isinstance(self.maps.query, LogFeatureMap)
        log = self.maps.query.log_features(q, start).add_(finite(self.shift))
        torch.exp(log.sub_(log.amax(dim=-1, keepdim=True)).unflatten(2, out.shape[2:4]), out=out)

    def write_keys(self, k: Keys, start: int, key_mask: KeyMask | None, out: ChunkFeatures, memory: Scratch) -> None:
        """The same of keys, 0 where masked."""
        if self.shift is None:
            self.maps.key.write_chunks(k, start, out, memory)
        else:
            assert isinstance(self.maps.key, LogFeatureMap)
            log = self.maps.key.log_features(k, start).sub_(finite(self.shift))
            torch.exp(log.unflatten(2, out.shape[2:4]), out=out)
        if key_mask is not None:
            out.masked_fill_(~key_mask.unflatten(1, out.shape[2:4])[:, None, :, :, None], 0.0)

    def all_queries(self, q: Queries) -> QueryFeatures:
        """Features of all queries at once, with gradients."""
        if self.shift is None:
            return self.maps.query(q.to(self.dtype))
        assert isinstance(self.maps.query, LogFeatureMap)
        log = self.maps.query.log_features(q.to(self.dtype)) + finite(self.shift)
        return (log - log.detach().amax(dim=-1, keepdim=True)).exp()

    def all_keys(self, k: Keys, key_mask: KeyMask | None) -> KeyFeatures:
        """The same of keys, 0 where masked."""
        if self.shift is None:
            phi = self.maps.key(k.to(self.dtype))
        else:
            assert isinstance(self.maps.key, LogFeatureMap)
            phi = (self.maps.key.log_features(k.to(self.dtype)) - finite(self.shift)).exp()
        return phi if key_mask is None else phi.masked_fill(~key_mask[:, None, :, None], 0.0)

    def pull_back(
        self,
        feature_map: FeatureMap,
        x: HeadStates,
        start: int,
        phi: ChunkFeatures,
        grad: ChunkFeatures,
        memory: Scratch,
    ) -> tuple[HeadStates, dict[str, Tensor]]:
        """Gradients of tokens and of the map's parameters, given their features and the gradient of these (lost).

        Shifts are constants: d phi = phi d log phi with them or without.
        """
        if self.shift is None:
            return feature_map.pull_back(x, start, phi, grad, memory)
        assert isinstance(feature_map, LogFeatureMap)
        with torch.enable_grad():
            leaf = x.detach().requires_grad_()
            return pulled_back(feature_map, feature_map.log_features(leaf, start), leaf, grad.mul_(phi).flatten(2, 3))


def is_exponential(maps: Maps) -> bool:
    """Whether exponents can be shifted at all."""
    return isinstance(maps.query, LogFeatureMap) and isinstance(maps.key, LogFeatureMap)


def needs_shift(maps: Maps, q: Queries, k: Keys) -> bool:
    """Whether plain features of these queries and keys might leave float32's range; True for NaN."""
    query_map, key_map, _ = maps
    if not isinstance(query_map, LogFeatureMap) or not isinstance(key_map, LogFeatureMap):
        return False
    if q.numel() == 0 or k.numel() == 0:
        return False
    with torch.no_grad():
        bound = torch.maximum(query_map.log_bound(q), key_map.log_bound(k))
    return not bool(bound <= PLAIN_RANGE)


@torch.no_grad()
def largest_exponents(key_map: LogFeatureMap, k: Keys, key_mask: KeyMask | None, start: int = 0) -> PerFeature:
    """Per feature, the largest exponent over all visible keys; -inf where there is none."""
    largest = k.new_full((*k.shape[:2], 1, key_map.feature_dim), -torch.inf, dtype=_at_least_float32(k))
    for first in range(0, k.shape[2], BLOCK):
        tokens = slice(first, first + BLOCK)
        log = key_map.log_features(k[:, :, tokens].to(largest.dtype), start + first)
        if key_mask is not None:
            log = log.masked_fill(~key_mask[:, None, tokens, None], -torch.inf)
        largest = torch.maximum(largest, log.amax(dim=2, keepdim=True))
    return largest


@torch.no_grad()
def first_exponents(key_map: LogFeatureMap, k: Keys, key_mask: KeyMask | None, start: int = 0) -> PerFeature:
    """Exponents of each row's first visible key; -inf where there is none."""
    if key_mask is None:
        return key_map.log_features(k[:, :, :1].to(_at_least_float32(k)), start)
    first = key_mask.int().argmax(dim=1)
    # Positional maps are no exponentials so far, so the position given here is the block's.
    chosen = k.gather(2, first[:, None, None, None].expand(-1, k.shape[1], 1, k.shape[3]))
    log = key_map.log_features(chosen.to(_at_least_float32(k)), start)
    return log.masked_fill(~key_mask.any(dim=1)[:, None, None, None], -torch.inf)


def one_shift_serves(shift: PerFeature, first: PerFeature) -> bool:
    """Whether one shift serves causal rows: no feature grows by more than COMMON_RANGE after its first key."""
    return bool(((shift - finite(first)) <= COMMON_RANGE).all())


def shifted(log_q: QueryFeatures, log_k: LogKeyFeatures) -> tuple[QueryFeatures, KeyFeatures]:
    """Features from log-features, up to factors that cancel in bidirectional weights; none exceeds 1."""
    if log_k.shape[2] == 0:
        return log_q.exp(), log_k.exp()
    shift = finite(log_k.detach().amax(dim=2, keepdim=True))
    log_q = log_q + shift
    return (log_q - log_q.detach().amax(dim=-1, keepdim=True)).exp(), (log_k - shift).exp()


def first_row_in_range(log_k: LogKeyFeatures, past: int, key_mask: KeyMask | None) -> bool:
    """Whether no key exceeds, in any feature, what the first query that sees keys sees by more than COMMON_RANGE.

    That query sees the fewest keys; the first `past` + 1, or where these are masked, the first that is not. In range,
    its scores sum to exp(-COMMON_RANGE) or more, and those of exp(-27) of that are normal float32 still.
    """
    if log_k.numel() == 0:
        return True
    log_k = log_k.detach()
    if key_mask is None:
        seen = log_k[:, :, : past + 1]
    else:
        # argmax gives the first of equals.
        newest = key_mask.int().argmax(dim=1).clamp(min=past)
        unseen = torch.arange(log_k.shape[2], device=log_k.device) > newest[:, None]
        seen = log_k.masked_fill(unseen[:, None, :, None], -torch.inf)
    most = seen.amax(dim=2)
    # Examples without any visible key have -inf on both sides.
    ahead = (log_k.amax(dim=2) - most).masked_fill(most.isneginf(), 0.0)
    return bool((ahead <= COMMON_RANGE).all())


def layer_features(
    maps: Maps, q: Queries, k: Keys, key_mask: KeyMask | None, causal: bool
) -> tuple[QueryFeatures, KeyFeatures, bool]:
    """Features of all q and k in at least float32, or their logarithms (then True); masked keys count as zero."""
    query_map, key_map, _ = maps
    dtype = _at_least_float32(q)
    start = k.shape[2] - q.shape[2] if causal else 0
    if isinstance(query_map, LogFeatureMap) and isinstance(key_map, LogFeatureMap):
        phi_q, phi_k = query_map.log_features(q.to(dtype), start), key_map.log_features(k.to(dtype))
        zero, logarithmic = -torch.inf, True
    else:
        phi_q, phi_k = query_map(q.to(dtype), start), key_map(k.to(dtype))
        zero, logarithmic = 0.0, False
    if key_mask is not None:
        phi_k = phi_k.masked_fill(~key_mask[:, None, :, None], zero)
    return phi_q, phi_k, logarithmic


def finite(shift: Tensor) -> Tensor:
    """The shift, with 0 for -inf: subtracting -inf from -inf would be NaN."""
    return shift.masked_fill(shift.isneginf(), 0.0)


def _at_least_float32(x: HeadStates) -> torch.dtype:
    return torch.promote_types(x.dtype, torch.float32)
