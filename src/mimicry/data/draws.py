"""Random draws that are the same on every machine and under every version of numpy."""

import numpy as np
from numpy.typing import NDArray

Integers = NDArray[np.int64]
Numbers = NDArray[np.float64]


class Draws:
    """A stream of numbers that is a function of its seeds.

    Only the raw output of a bit generator is used: numpy keeps that as it is, and reserves the right to change what its
    distributions make of it (NEP 19).

    Args:
        seeds: integers >= 0; streams of different seeds are independent.
    """

    def __init__(self, *seeds: int) -> None:
        self._bits = np.random.PCG64(np.random.SeedSequence(seeds))

    def fractions(self, *shape: int) -> Numbers:
        """Multiples of 2^-53 in [0, 1)."""
        raw = self._bits.random_raw(int(np.prod(shape)))
        return (raw >> np.uint64(11)).astype(np.float64).reshape(shape) * 2.0**-53

    def integers(self, limit: int | Integers, *shape: int) -> Integers:
        """Integers from 0 to limit - 1, all equally likely up to 2^-53."""
        return np.floor(self.fractions(*shape) * limit).astype(np.int64)

    def distinct(self, limit: int, rows: int, count: int) -> Integers:
        """For each row `count` different integers below `limit`, all ordered choices equally likely."""
        chosen = np.empty((rows, count), dtype=np.int64)
        each = np.arange(rows)
        # Fisher and Yates's shuffle, stopped after `count` places, of all rows at once.
        left = np.tile(np.arange(limit, dtype=np.int32), (rows, 1))
        for place in range(count):
            other = place + self.integers(limit - place, rows)
            chosen[:, place] = left[each, other]
            left[each, other] = left[:, place]
        return chosen

    def weighted_distinct(self, weights: Numbers, rows: int, count: int) -> Integers:
        """For each row `count` different positions of `weights`, drawn one after another in proportion to them."""
        # Exponential waiting times with these rates end in just this order.
        waits = -np.log1p(-self.fractions(rows, len(weights))) / weights
        return np.argsort(waits, axis=1, kind="stable")[:, :count]
