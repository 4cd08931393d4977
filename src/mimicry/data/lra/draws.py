"""Random numbers that are the same on every machine and under every version of numpy."""

import numpy as np

# A double has 53 bits.
UNUSED_BITS = 11
UNIT = 2.0**-53


class Draws:
    """A stream of independent draws, named by integers: equal names give equal streams.

    numpy promises to keep the bits of PCG64 and of SeedSequence, but not what its Generator makes of them; so numbers
    are made of the bits here.

    Args:
        names: such as seed, split and chunk; each >= 0.
    """

    def __init__(self, *names: int) -> None:
        self.bits = np.random.PCG64(np.random.SeedSequence(names))

    def fractions(self, *shape: int) -> np.ndarray:
        """Float64 drawn evenly from [0, 1)."""
        raw = self.bits.random_raw(int(np.prod(shape)))
        return ((raw >> np.uint64(UNUSED_BITS)) * UNIT).reshape(shape)

    def integers(self, high: int, *shape: int) -> np.ndarray:
        """Int64 drawn evenly from 0, ..., `high` - 1."""
        return (self.fractions(*shape) * high).astype(np.int64)
