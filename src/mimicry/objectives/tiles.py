"""The walk behind the streamed distillation loss: scores of teacher and student, a tile of pairs at a time."""

import math
from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

# Pairs held at a time in each of three buffers, unless one block of one head has more: so many heads go together. On a
# CPU they stay in its cache; elsewhere (not timed) fewer and larger operations are what counts.
PAIRS, PAIRS_ON_ACCELERATORS = 2**18, 2**24


@dataclass(frozen=True)
class Sight:
    """Of one example: keys that may be seen, queries that count and see any, and how many keys each of these sees."""

    keys: Tensor
    queries: Tensor
    limits: Tensor

    def blocks(self, size: int, dtype: torch.dtype) -> Iterator[tuple[slice, int, Tensor]]:
        """Rows of queries, how many keys the last of them sees, and a cap on scores of the newest of these keys.

        The cap is 0 where a row may not see a key, infinite where it may. Keys before the newest are seen by all rows.
        """
        for start in range(0, len(self.limits), size):
            limits = self.limits[start : start + size]
            first, last = limits[[0, -1]].tolist()
            hidden = torch.arange(first, last, device=limits.device) >= limits[:, None]
            cap = torch.full_like(hidden, torch.inf, dtype=dtype).masked_fill_(hidden, 0.0)
            yield slice(start, start + size), last, cap


def sight(q: Tensor, k: Tensor, causal: bool, key_mask: Tensor | None, query_mask: Tensor | None) -> Sight:
    """What queries (heads, n, d) of one example see of keys (heads, m, d); causal ones are at the last positions."""
    n, m = q.shape[1], k.shape[1]
    keys = torch.ones(m, dtype=torch.bool, device=k.device) if key_mask is None else key_mask
    limits = keys.cumsum(dim=0)
    limits = limits[m - n :] if causal else limits[-1:].expand(n)
    # Where no key is visible the teacher's weights are 0, and so are loss and gradient.
    queries = limits > 0 if query_mask is None else query_mask & (limits > 0)
    return Sight(keys, queries, limits[queries])


class TileWalk:
    """Sums up loss, entropy and gradients tile by tile: some heads of one example, a block of queries, their keys.

    Args:
        states: q, k, phi_q and phi_k of the whole batch, the latter two in the dtype of all sums.
        gradients: zeros like phi_q and phi_k, to be filled; None if none are wanted.
        share: what each head of each query weighs in the sums.
        block: queries per tile.

    Attributes:
        losses, entropies: one number per tile, to be summed.
    """

    def __init__(
        self,
        states: tuple[Tensor, Tensor, Tensor, Tensor],
        gradients: tuple[Tensor, Tensor] | None,
        share: float,
        block: int,
    ) -> None:
        q, k, phi_q, phi_k = states
        self.states, self.gradients, self.share, self.block = states, gradients or (), share, block
        # Query heads that share a head of keys stay together.
        self.groups = (q.shape[1] // k.shape[1], q.shape[1] // phi_k.shape[1])
        unit, pairs = math.lcm(*self.groups), min(block, q.shape[2]) * k.shape[2]
        most = PAIRS if q.device.type == "cpu" else PAIRS_ON_ACCELERATORS
        self.heads = min(q.shape[1], unit * max(1, most // (unit * pairs)))
        # Written again and again: fresh memory for each tile would cost as much as the arithmetic on it.
        self.buffers = phi_q.new_empty(3, self.heads * pairs)
        self.losses, self.entropies = [phi_q.new_zeros(())], [phi_q.new_zeros(())]

    def over(self, index: int, seen: Sight) -> None:
        """Walks one example of the batch, without the keys that are hidden and the queries that add nothing."""
        masks = (seen.queries, seen.keys)
        q, k, phi_q, phi_k = (_chosen(x[index], mask) for x, mask in zip(self.states, masks * 2, strict=True))
        wholes = [gradient[index] for gradient in self.gradients]
        parts = [_chosen(whole, mask) for whole, mask in zip(wholes, masks, strict=False)]
        k = k.to(phi_k.dtype)
        blocks = list(seen.blocks(self.block, k.dtype))
        for start in range(0, q.shape[0], self.heads):
            stop = min(start + self.heads, q.shape[0])
            heads, taught, studied = (slice(start // size, stop // size) for size in (1, *self.groups))
            for rows, last, cap in blocks:
                weights = self._teacher(q[heads, rows].to(k.dtype), k[taught, :last], cap)
                queries, keys = phi_q[heads, rows], phi_k[studied, :last]
                scores = self._student(weights, queries, keys, cap)
                if parts:
                    steer = scores.view(keys.shape[0], -1, last)
                    parts[0][heads, rows] = torch.bmm(steer, keys).view_as(queries)
                    parts[1][studied, :last].baddbmm_(steer.mT, _grouped(queries, keys))
        for whole, part, mask in zip(wholes, parts, masks, strict=False):
            if part.shape != whole.shape:
                whole[:, mask] = part

    def _teacher(self, q: Tensor, k: Tensor, cap: Tensor) -> Tensor:
        """Softmax weights; adds their entropy."""
        # Powers of two: exp2 takes half the time of exp.
        scores = self._products(0, q * (math.log2(math.e) * q.shape[-1] ** -0.5), k)
        # Half the lowest number: stays finite when a maximum is taken off.
        _cap_newest(scores, cap + torch.finfo(scores.dtype).min / 2)
        scores.sub_(scores.amax(dim=-1, keepdim=True))
        weights = torch.exp2(scores, out=self._buffer(1, scores.shape))
        total = weights.sum(dim=-1, keepdim=True)
        weights.mul_(total.reciprocal())
        self.entropies.append((total.log().sum() - math.log(2) * scores.mul_(weights).sum()) * self.share)
        return weights

    def _student(self, weights: Tensor, phi_q: Tensor, phi_k: Tensor, cap: Tensor) -> Tensor:
        """Adds the loss; gradients of the scores."""
        scores = self._products(2, phi_q, phi_k)
        floor = torch.finfo(scores.dtype).tiny
        _cap_newest(scores, cap)
        total = scores.sum(dim=-1, keepdim=True)
        scores.clamp_(min=floor)
        logs = torch.log(scores, out=self._buffer(0, scores.shape))
        self.losses.append((total.clamp(min=floor).log().sum() - logs.mul_(weights).sum()) * self.share)
        if self.gradients:
            # The share first: a / P, times rows of phi that are at most 1, then stays finite also where P is the floor.
            pull = (self.share / total).masked_fill(total < floor, 0.0)
            torch.addcdiv(pull, weights, scores, value=-self.share, out=scores)
            # Where a is 0 the gradient is not negative.
            _cap_newest(scores, cap)
        return scores

    def _products(self, buffer: int, x: Tensor, keys: Tensor) -> Tensor:
        """x_i . keys_j of every query head, (heads, queries, keys)."""
        products = self._buffer(buffer, (*x.shape[:2], keys.shape[1]))
        torch.bmm(_grouped(x, keys), keys.mT, out=products.view(keys.shape[0], -1, keys.shape[1]))
        return products

    def _buffer(self, index: int, shape: tuple[int, ...]) -> Tensor:
        return self.buffers[index, : math.prod(shape)].view(shape)


def _chosen(x: Tensor, mask: Tensor) -> Tensor:
    """Tokens where `mask` is True of (heads, tokens, width); a copy only if some are left out."""
    return x if bool(mask.all()) else x[:, mask]


def _grouped(x: Tensor, keys: Tensor) -> Tensor:
    """Rows of (heads, queries, width), gathered by the head of keys that serves them."""
    return x.reshape(keys.shape[0], -1, x.shape[-1])


def _cap_newest(scores: Tensor, cap: Tensor) -> None:
    """Lowers scores of the newest keys to `cap`, in place: a fifth of the time of filling by a mask."""
    newest = scores[..., scores.shape[-1] - cap.shape[-1] :]
    torch.minimum(newest, cap, out=newest)
