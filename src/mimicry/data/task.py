"""What a task is: its rows, its metrics, and where both came from."""

import hashlib
import json
import random
from collections.abc import Mapping, Sequence
from dataclasses import astuple, dataclass, field, fields
from typing import TYPE_CHECKING, Any, Protocol, TypeVar, runtime_checkable

if TYPE_CHECKING:
    from mimicry.data.batches import Encoder

Row = TypeVar("Row")


@dataclass(frozen=True)
class Example:
    """One labelled text, or pair of texts: an int label names a class, a float label is a score to regress on."""

    text: str
    pair: str | None
    label: int | float


@dataclass(frozen=True)
class ImageExample:
    """One labelled image: the bytes of its file, or pixels of shape (height, width[, channels]) from 0 to 255."""

    image: Any
    label: int


@dataclass(frozen=True)
class TaskData:
    """The rows of a task.

    Attributes:
        name: the task's name.
        num_labels: number of classes; 1 means regression, 0 that text itself is predicted.
        metrics: names known to `training.metrics`; the first one is the primary metric.
        train: the rows to train on.
        validation: the rows to score on, by split; the first split is the primary one.
        sources: what each split was read from: an asset, a hub id with its split, or a file.
        fingerprint: sha256 over all rows; equal exactly when all splits hold the same rows in the same order.
        label_names: of the classes in the order of their ids; empty when they have no names.
        missing: parts of the task that were not to be had, each with the reason.
        available: rows of each split before a limit was drawn from them; empty when not counted.
    """

    name: str
    num_labels: int
    metrics: tuple[str, ...]
    train: Sequence[Any]
    validation: Mapping[str, Sequence[Any]]
    sources: dict[str, str]
    fingerprint: str
    label_names: tuple[str, ...] = ()
    missing: tuple[str, ...] = ()
    available: Mapping[str, int] = field(default_factory=dict)


# At runtime too, because tests check arguments against their annotations.
@runtime_checkable
class Task(Protocol):
    """Something that can be trained and scored on.

    `modality` says what its rows are: `text` or `image` to classify, `language` to predict token by token, `tokens` to
    predict without a tokenizer, or `sequence`, symbols to classify.
    """

    name: str
    modality: str
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

    def encoder(self, processor: Any, max_length: int) -> "Encoder":
        """What turns rows into batches for a model: `processor` is its tokenizer or image processor."""


@dataclass(frozen=True)
class RowLimits:
    """The most rows to keep of each split; None keeps all.

    Raises:
        ValueError: if a limit is below 1.
    """

    max_train_rows: int | None
    max_validation_rows: int | None

    def __post_init__(self) -> None:
        for entry in fields(self):
            check_limit(entry.name, getattr(self, entry.name))


def check_limit(argument: str, limit: int | None) -> None:
    """Refuse a row limit below 1 in the name of the argument that set it."""
    if limit is not None and limit < 1:
        raise ValueError(f"{argument} must be >= 1 or null, got {limit}")


def draw_indices(count: int, limit: int | None, seed: int = 0) -> list[int]:
    """At most `limit` of `count` positions, drawn evenly without replacement, in order; all of them for None."""
    if limit is None or limit >= count:
        return list(range(count))
    return sorted(random.Random(seed).sample(range(count), limit))


def limit_rows(rows: Sequence[Row], limit: int | None, seed: int = 0) -> tuple[Row, ...]:
    """Draw at most `limit` rows evenly, without replacement, and leave them in their order."""
    return tuple(rows[index] for index in draw_indices(len(rows), limit, seed))


def build_task_data(
    task: Task,
    limits: RowLimits,
    train: Sequence[Any],
    validation: Mapping[str, Sequence[Any]],
    sources: dict[str, str],
    label_names: tuple[str, ...] = (),
    missing: tuple[str, ...] = (),
) -> TaskData:
    """Limit every split and fingerprint what is left: rows are texts, or dataclasses of values that JSON knows.

    Raises:
        ValueError: if a split has no rows.
    """
    for split, rows in {"train": train, **validation}.items():
        if not rows:
            raise ValueError(f"{split} split of {task.name} must have at least one row, got 0 from {sources[split]}")
    available = {split: len(rows) for split, rows in {"train": train, **validation}.items()}
    train = limit_rows(train, limits.max_train_rows)
    limited = {split: limit_rows(rows, limits.max_validation_rows) for split, rows in validation.items()}
    return TaskData(
        name=task.name,
        num_labels=task.num_labels,
        metrics=task.metrics,
        train=train,
        validation=limited,
        sources=sources,
        fingerprint=_fingerprint({"train": train, **limited}),
        label_names=label_names,
        missing=missing,
        available=available,
    )


def _fingerprint(splits: Mapping[str, Sequence[Any]]) -> str:
    digest = hashlib.sha256()
    for split, rows in splits.items():
        for row in rows:
            values = (row,) if isinstance(row, str) else astuple(row)
            digest.update(json.dumps([split, *values]).encode() + b"\n")
    return digest.hexdigest()
