"""What a text-classification task is: its rows, its metrics, and where both came from."""

import hashlib
import json
import random
from collections.abc import Sequence
from dataclasses import dataclass, fields
from typing import Protocol, TypeVar, runtime_checkable

Row = TypeVar("Row")


@dataclass(frozen=True)
class Example:
    """One labelled text, or pair of texts: an int label names a class, a float label is a score to regress on."""

    text: str
    pair: str | None
    label: int | float


@dataclass(frozen=True)
class TaskData:
    """The rows of a task.

    Attributes:
        name: the task's name.
        num_labels: number of classes; 1 means regression.
        metrics: from `matthews`, `f1`, `accuracy`, `pearson`, `spearman`; the first one is the primary metric.
        train: the rows to train on.
        validation: the rows to score on.
        sources: what each split was read from: an asset, a hub id with its split, or a file.
        fingerprint: sha256 over all rows; equal exactly when both splits hold the same rows in the same order.
    """

    name: str
    num_labels: int
    metrics: tuple[str, ...]
    train: tuple[Example, ...]
    validation: tuple[Example, ...]
    sources: dict[str, str]
    fingerprint: str


# At runtime too, because tests check arguments against their annotations.
@runtime_checkable
class Task(Protocol):
    """Something that can be trained and scored on."""

    name: str
    num_labels: int
    metrics: tuple[str, ...]

    def check(self) -> None:
        """Refuse, without a download or a slow import, all that can be refused so early.

        Raises:
            ValueError: if an option, a missing file or a bad row would make `load` fail.
        """

    def load(self) -> TaskData:
        """Read every row.

        Raises:
            ValueError: if the rows cannot be used.
            ConnectionError: if they have to be downloaded and the hub cannot be reached.
            AssetError: if they have to be downloaded and the package index does not deliver.
        """


@dataclass(frozen=True)
class RowLimits:
    """The most rows to keep of each split; None keeps all.

    Raises:
        ValueError: if a limit is below 1.
    """

    max_train_rows: int | None
    max_validation_rows: int | None

    def __post_init__(self) -> None:
        for field in fields(self):
            check_limit(field.name, getattr(self, field.name))


def check_limit(argument: str, limit: int | None) -> None:
    """Refuse a row limit below 1 in the name of the argument that set it."""
    if limit is not None and limit < 1:
        raise ValueError(f"{argument} must be >= 1 or null, got {limit}")


def limit_rows(rows: Sequence[Row], limit: int | None, seed: int = 0) -> tuple[Row, ...]:
    """Draw at most `limit` rows evenly, without replacement, and leave them in their order."""
    if limit is None or limit >= len(rows):
        return tuple(rows)
    kept = random.Random(seed).sample(range(len(rows)), limit)
    return tuple(rows[index] for index in sorted(kept))


def build_task_data(
    task: Task, limits: RowLimits, train: Sequence[Example], validation: Sequence[Example], sources: dict[str, str]
) -> TaskData:
    """Limit both splits and fingerprint what is left.

    Raises:
        ValueError: if a split has no rows.
    """
    for split, rows in (("train", train), ("validation", validation)):
        if not rows:
            raise ValueError(f"{split} split of {task.name} must have at least one row, got 0 from {sources[split]}")
    train = limit_rows(train, limits.max_train_rows)
    validation = limit_rows(validation, limits.max_validation_rows)
    return TaskData(
        name=task.name,
        num_labels=task.num_labels,
        metrics=task.metrics,
        train=train,
        validation=validation,
        sources=sources,
        fingerprint=_fingerprint(train, validation),
    )


def _fingerprint(train: Sequence[Example], validation: Sequence[Example]) -> str:
    digest = hashlib.sha256()
    for split, rows in (("train", train), ("validation", validation)):
        for row in rows:
            digest.update(json.dumps([split, row.text, row.pair, row.label]).encode() + b"\n")
    return digest.hexdigest()
