"""Byte sequences as batches of ids, padded where rows differ in length."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import pyarrow.compute as pc
import torch
from torch import Tensor
from torch.utils.data import Subset

from mimicry.data.batches import Rows
from mimicry.data.lra.sequences import SequenceExample, SequenceFormat, SequenceRows

PAD_ID = 0


class SequenceEncoder:
    """Turns bytes into ids, batch by batch: rows stay bytes on disk until then.

    Args:
        sequence_format: of the task.
        num_labels: of the task.
        max_length: of the model, in positions.

    Attributes:
        vocab_size: number of ids, padding included.
        num_labels: number of classes.
        max_length: the longest row of a batch.

    Raises:
        ValueError: if `max_length` is below 1.
    """

    workers = 0

    def __init__(self, sequence_format: SequenceFormat, num_labels: int, max_length: int) -> None:
        if max_length < 1:
            raise ValueError(f"max_length must be >= 1, got {max_length}")
        self.format = sequence_format
        self.vocab_size = sequence_format.vocab_size
        self.num_labels = num_labels
        self.max_length = max_length

    def encode(self, examples: Sequence[SequenceExample]) -> Sequence[SequenceExample]:
        """The examples themselves.

        Raises:
            ValueError: if there are no examples, or one is too long and must not be cut.
        """
        if not examples:
            raise ValueError("examples must not be empty, got 0")
        if not self.format.cut:
            longest = max(_sizes(examples, "symbols"))
            if longest > self.max_length:
                raise ValueError(f"max_length must be >= {longest}, the longest row, got {self.max_length}")
        return examples

    def lengths(self, rows: Rows) -> list[int]:
        """Positions of each row; those of a pair together."""
        first, second = (np.minimum(_sizes(rows, name), self.max_length) for name in ("symbols", "pair"))
        return [int(size) for size in first + second]

    def collate(self, rows: Sequence[SequenceExample]) -> dict[str, Tensor]:
        """`input_ids` of shape (rows, positions) and `labels`; for a format with padding also `attention_mask`.

        Of pairs, the second sequences are `pair_input_ids` and `pair_attention_mask`, with a length of their own.
        """
        batch = self._collate_side([row.symbols for row in rows])
        pairs = [row.pair for row in rows if row.pair is not None]
        if pairs:
            batch |= {f"pair_{name}": value for name, value in self._collate_side(pairs).items()}
        return {**batch, "labels": torch.tensor([row.label for row in rows])}

    def position_names(self, row: SequenceExample) -> list[str]:
        """The symbols, of a pair those of its first sequence; for pictures row and column of each pixel."""
        symbols = row.symbols[: self.max_length]
        width = self.format.width
        if width is not None:
            return [f"{position // width},{position % width}" for position in range(len(symbols))]
        return [self.format.names[symbol] for symbol in symbols]

    def _collate_side(self, sequences: Sequence[bytes]) -> dict[str, Tensor]:
        cut = [np.frombuffer(sequence, dtype=np.uint8)[: self.max_length] for sequence in sequences]
        if not self.format.padded:
            return {"input_ids": torch.from_numpy(np.stack(cut).astype(np.int64))}
        ids = np.full((len(cut), max(map(len, cut))), PAD_ID, dtype=np.int64)
        for line, symbols in zip(ids, cut, strict=True):
            line[: len(symbols)] = symbols
            line[: len(symbols)] += PAD_ID + 1
        return {
            "input_ids": torch.from_numpy(ids),
            "attention_mask": torch.from_numpy((ids != PAD_ID).astype(np.int64)),
        }


def _sizes(rows: Any, name: str) -> np.ndarray:
    """Lengths of one column, 0 where there is none; read off the table, which spares touching the rows themselves."""
    if isinstance(rows, Subset):
        return _sizes(rows.dataset, name)[np.array(rows.indices, dtype=np.int64)]
    if isinstance(rows, SequenceRows):
        sizes = pc.fill_null(pc.binary_length(rows.columns[name]), 0).to_numpy()
        return sizes[np.array(rows.indices, dtype=np.int64)].astype(np.int64)
    return np.array([len(getattr(rows[index], name) or b"") for index in range(len(rows))], dtype=np.int64)
