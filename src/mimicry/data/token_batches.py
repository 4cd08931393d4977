"""Rows of tokens as batches for a decoder."""

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from mimicry.data.batches import Rows
from mimicry.data.token_rows import IGNORED, TokenRow, TokenRows


class TokenEncoder:
    """Stacks rows that are tokens already.

    Args:
        names: of all token ids, in order.
        max_length: of the model, in tokens.

    Attributes:
        vocab_size: number of token ids.
    """

    workers = 0

    def __init__(self, names: Sequence[str], max_length: int) -> None:
        self.names = names
        self.vocab_size = len(names)
        self.max_length = max_length

    def encode(self, examples: Sequence[TokenRow]) -> Sequence[TokenRow]:
        """The rows themselves.

        Raises:
            ValueError: if there are none, or one is longer than the model's length.
        """
        if not examples:
            raise ValueError("examples must not be empty, got 0")
        longest = max(self.lengths(examples))
        if longest > self.max_length:
            raise ValueError(f"max_length must be >= the {longest} tokens of the longest row, got {self.max_length}")
        return examples

    def lengths(self, rows: Rows) -> list[int]:
        """Tokens of each row."""
        if isinstance(rows, TokenRows):
            return [tokens.shape[1] for tokens, _ in rows.tables for _ in tokens]
        return [len(rows[index]) for index in range(len(rows))]

    def collate(self, rows: Sequence[TokenRow]) -> dict[str, Tensor]:
        """`input_ids`, padded at their end to the longest row, and `labels`, -100 where nothing is scored.

        Padding needs no mask: a causal model lets no earlier token see it.
        """
        shape = (len(rows), max(map(len, rows)))
        input_ids, labels = np.zeros(shape, dtype=np.int64), np.full(shape, IGNORED, dtype=np.int64)
        for index, row in enumerate(rows):
            input_ids[index, : len(row)], labels[index, : len(row)] = row.tokens, row.labels
        return {"input_ids": torch.from_numpy(input_ids), "labels": torch.from_numpy(labels)}

    def position_names(self, row: TokenRow) -> list[str]:
        """Names of the row's tokens."""
        return [self.names[token] for token in row.tokens]
