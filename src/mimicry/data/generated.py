"""What tasks that are drawn from a seed share: checks of their options, and their rows as `TaskData`."""

from collections.abc import Mapping

from mimicry.data.task import Task, TaskData
from mimicry.data.token_rows import TokenRows, fingerprint

# Streams that rows are drawn from: test rows are drawn anew, none is set aside from training.
TRAIN, VALIDATION = 0, 1


def check_at_least(option: str, value: int, least: int) -> None:
    """Refuse a value below `least` in the name of its option."""
    if value < least:
        raise ValueError(f"{option} must be >= {least}, got {value}")


def check_even(option: str, value: int, least: int) -> None:
    """Refuse an odd value or one below `least` in the name of its option."""
    if value < least or value % 2:
        raise ValueError(f"{option} must be even and >= {least}, got {value}")


def generated_data(task: Task, source: str, train: TokenRows, validation: Mapping[str, TokenRows]) -> TaskData:
    """The rows of a task that were drawn for it; `source` says how to draw them again."""
    splits = {"train": train, **validation}
    return TaskData(
        name=task.name,
        num_labels=task.num_labels,
        metrics=task.metrics,
        train=train,
        validation=validation,
        sources=dict.fromkeys(splits, source),
        fingerprint=fingerprint(splits),
    )
