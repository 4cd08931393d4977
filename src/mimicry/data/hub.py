"""Data sets on the hub, or local copies in the hub's layout."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any


def load_splits(hub: str, config: str | None, splits: Sequence[str], what: str, files: str) -> dict[str, Any]:
    """The splits of a data set as tables.

    Args:
        hub: id of the data set, or a local folder.
        config: which of its configurations; None where there is one.
        splits: to load.
        what: is read, for messages.
        files: that can be read from a local folder instead, for messages.

    Raises:
        ValueError: if there is no such data set, configuration or split.
        ConnectionError: if the hub cannot be reached.
    """
    # Slow to import, and only needed here.
    import datasets

    failure = f"cannot read {what} of the data set {hub!r}"
    remedy = f"set task.root=DIR to read local {files}"
    try:
        tables = datasets.load_dataset(hub, config, split=list(splits))
    except (FileNotFoundError, ValueError, datasets.exceptions.DatasetsError) as error:
        raise ValueError(f"{failure}: {_one_line(error)}; {remedy}") from error
    except OSError as error:
        raise ConnectionError(f"{failure}: {_one_line(error)}; {remedy}") from error
    return dict(zip(splits, tables, strict=True))


def origin(hub: str, split: str) -> str:
    """How a record names the source: of a local copy the name is enough, where it lies differs between machines."""
    return f"{Path(hub).resolve().name if Path(hub).is_dir() else hub}@{split}"


def check_column(columns: Sequence[str], wanted: str, source: str) -> None:
    """Raises ValueError if a table lacks a column."""
    if wanted not in columns:
        raise ValueError(f"{source} must have the column {wanted!r}, got {', '.join(columns)}")


def _one_line(error: Exception) -> str:
    return " ".join(str(error).split())
