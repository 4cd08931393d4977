"""Rows of tokens that were drawn, not read: tables of tokens and of labels."""

import hashlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import overload

import numpy as np
from numpy.typing import NDArray

from mimicry.data.draws import Draws, Integers

# A label that is not scored.
IGNORED = -100
# Rows drawn from one stream. Fixed, and always drawn in full, so that fewer rows are the first ones of more.
BLOCK = 1024

Table = NDArray[np.int32]


@dataclass(frozen=True)
class TokenRow:
    """Tokens, and at each position the token to be predicted there from those before it; -100 where none is scored."""

    tokens: Table
    labels: Table

    def __len__(self) -> int:
        return len(self.tokens)


class TokenRows(Sequence[TokenRow]):
    """Rows of one or several lengths.

    Args:
        tables: tokens and labels, each of shape (rows, length), for each length.
    """

    def __init__(self, *tables: tuple[Table, Table]) -> None:
        self.tables = tables
        self._ends = np.cumsum([len(tokens) for tokens, _ in tables])

    def __len__(self) -> int:
        return int(self._ends[-1])

    @overload
    def __getitem__(self, index: int) -> TokenRow: ...
    @overload
    def __getitem__(self, index: slice) -> list[TokenRow]: ...

    def __getitem__(self, index: int | slice) -> TokenRow | list[TokenRow]:
        if isinstance(index, slice):
            return [self[position] for position in range(*index.indices(len(self)))]
        if not -len(self) <= index < len(self):
            raise IndexError(f"index must be within {len(self)} rows, got {index}")
        index %= len(self)
        which = int(np.searchsorted(self._ends, index, side="right"))
        tokens, labels = self.tables[which]
        at = index - int(self._ends[which]) + len(tokens)
        return TokenRow(tokens[at], labels[at])


def draw_table(
    count: int, seeds: Sequence[int], draw: Callable[[Draws, int], tuple[Integers, Integers]]
) -> tuple[Table, Table]:
    """Tokens and labels of `count` rows, each of shape (count, length).

    Args:
        count: rows, >= 1.
        seeds: of the stream that they are drawn from, integers >= 0.
        draw: given draws and a number of rows, returns their tokens and labels.
    """
    blocks = []
    for block in range(-(-count // BLOCK)):
        tokens, labels = draw(Draws(*seeds, block), BLOCK)
        blocks.append((tokens.astype(np.int32), labels.astype(np.int32)))
    all_tokens, all_labels = (np.concatenate(parts)[:count] for parts in zip(*blocks, strict=True))
    return all_tokens, all_labels


def fingerprint(splits: Mapping[str, TokenRows]) -> str:
    """Sha256 over all rows of all splits, whatever the machine's byte order."""
    digest = hashlib.sha256()
    for split, rows in splits.items():
        for tokens, labels in rows.tables:
            digest.update(f"{split} {tokens.shape} ".encode())
            for table in (tokens, labels):
                digest.update(np.ascontiguousarray(table, dtype="<i4").tobytes())
    return digest.hexdigest()
