"""Rows of one byte per position: what Long Range Arena's tasks have in common."""

import hashlib
from array import array
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from mimicry.data.task import RowLimits, Task, TaskData, draw_indices

# The one that is reported comes first, as in a task's data.
SCORED = ("test", "validation")
METRICS: tuple[str, ...] = ("accuracy",)


@dataclass(frozen=True)
class SequenceExample:
    """One labelled sequence, or pair of sequences: a byte for each position."""

    symbols: bytes
    label: int
    pair: bytes | None = None


@dataclass(frozen=True)
class SequenceFormat:
    """How a task's bytes become the ids that a model reads.

    Args:
        names: of the symbols by value; the vocabulary, less padding.
        padded: whether rows differ in length: id 0 is then padding, and a symbol's id is one more than its value.
        cut: whether rows that are longer than the model lose their end; they are refused otherwise.
        width: of the picture that the sequence is, in pixels; None for what is no picture.
    """

    names: tuple[str, ...]
    padded: bool
    cut: bool
    width: int | None = None

    @property
    def vocab_size(self) -> int:
        """Number of ids, padding included."""
        return len(self.names) + self.padded


class SequenceRows(Sequence[Any]):
    """Rows of a memory-mapped table; each is read when it is asked for.

    Args:
        table: with the columns of `store.schema`.
        indices: which of its rows, in order.
    """

    def __init__(self, table: Any, indices: Sequence[int]) -> None:
        self.table = table
        self.columns = {name: table.column(name) for name in ("symbols", "label", "pair")}
        # A list of a million numbers would be copied page by page into every worker process that touches it.
        self.indices = array("q", indices)

    def __len__(self) -> int:
        return len(self.indices)

    def __getitem__(self, index: Any) -> Any:
        """One row for a position; for a slice the same kind of rows, still on disk."""
        if isinstance(index, slice):
            return SequenceRows(self.table, self.indices[index])
        row = self.indices[index]
        return SequenceExample(**{name: column[row].as_py() for name, column in self.columns.items()})


@dataclass(frozen=True)
class SplitRows:
    """A split before it is limited.

    Attributes:
        table: holds its rows.
        indices: which rows of the table are the split's.
        source: what it was read or generated from.
        available: its number of rows, also those that were not generated because a limit leaves them out.
    """

    table: Any
    indices: Sequence[int]
    source: str
    available: int


def build_sequence_data(
    task: Task,
    limits: RowLimits,
    splits: Mapping[str, SplitRows],
    label_names: tuple[str, ...] = (),
    missing: tuple[str, ...] = (),
) -> TaskData:
    """Limit every split and fingerprint what is left; `test` is the primary split where there is one.

    Raises:
        ValueError: if a split has no rows.
    """
    rows = {}
    for split in ("train", *SCORED):
        if split in splits:
            whole = splits[split]
            if not len(whole.indices):
                raise ValueError(f"{split} split of {task.name} must have at least one row, got 0 from {whole.source}")
            limit = limits.max_train_rows if split == "train" else limits.max_validation_rows
            chosen = draw_indices(len(whole.indices), limit)
            rows[split] = SequenceRows(whole.table, [whole.indices[index] for index in chosen])
    fingerprint = fingerprint_rows(rows)
    return TaskData(
        name=task.name,
        num_labels=task.num_labels,
        metrics=task.metrics,
        train=rows.pop("train"),
        validation=rows,
        sources={split: splits[split].source for split in ("train", *rows)},
        fingerprint=fingerprint,
        label_names=label_names,
        missing=missing,
        available={split: splits[split].available for split in ("train", *rows)},
    )


def fingerprint_rows(splits: Mapping[str, Sequence[SequenceExample]]) -> str:
    """sha256 over all rows; equal exactly when all splits hold the same rows in the same order."""
    digest = hashlib.sha256()
    for split, rows in splits.items():
        for row in rows:
            length = None if row.pair is None else len(row.pair)
            digest.update(f"{split} {row.label} {len(row.symbols)} {length}\n".encode())
            digest.update(row.symbols)
            digest.update(row.pair or b"")
    return digest.hexdigest()
