"""Splits that are drawn rather than read, in chunks that depend on nothing but their name."""

from collections.abc import Callable
from dataclasses import dataclass, fields
from functools import partial
from pathlib import Path
from typing import Any

from mimicry.data.generated import check_at_least
from mimicry.data.lra.sequences import SequenceExample
from mimicry.data.lra.store import generate

# Rows of a chunk: seconds of work for one core.
CHUNK = 2000
# The position of a split is part of the name of its random numbers.
SPLITS = ("train", "validation", "test")


@dataclass(frozen=True)
class SplitSizes:
    """Rows of each split, each >= 1.

    Raises:
        ValueError: if one is below 1.
    """

    train: int
    validation: int
    test: int

    def __post_init__(self) -> None:
        for entry in fields(self):
            check_at_least(entry.name, getattr(self, entry.name), 1)

    def of(self, split: str) -> int:
        """Rows of the split with this name."""
        size: int = getattr(self, split)
        return size

    def chunk(self, split: str) -> int:
        """Rows of each of its chunks."""
        return min(CHUNK, self.of(split))


def draw_chunks(
    folder: Path, split: str, chunks: int, make: Callable[[int, int], list[SequenceExample]], name: str
) -> Any:
    """The table of a split's first chunks; those that the cache lacks are drawn.

    Args:
        folder: of the cache, named after all that the rows are made of.
        split: one of `SPLITS`.
        chunks: how many.
        make: the rows of one chunk, from the position of its split in `SPLITS` and its number; picklable.
        name: of the task, for the progress bar.
    """
    paths = [folder / f"{split}-{number:05d}.arrow" for number in range(chunks)]
    return generate(paths, partial(make, SPLITS.index(split)), f"Drawing {name} ({split})")
