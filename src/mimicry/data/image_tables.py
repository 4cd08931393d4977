"""Tables of images, memory-mapped by the datasets library: what they are read from, and which columns to take."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import datasets

from mimicry.data.image_files import image_files
from mimicry.data.image_rows import ImageColumns, ImageRows

IMAGE_COLUMNS = ("image", "img", "jpeg", "jpg", "png", "bytes")
LABEL_COLUMNS = ("label", "labels", "class", "target")
FILE_COLUMNS = ("file", "file_name", "filename", "path")


@dataclass(frozen=True)
class ImageTable:
    """All rows of one split.

    Args:
        rows: a `datasets.Dataset`.
        source: where it was read from, without what differs between machines.
        folder: where paths of images start.
    """

    rows: Any
    source: str
    folder: Path = Path()

    def choose(self, columns: ImageColumns, indices: list[int]) -> ImageRows:
        """The rows at `indices`, with their images as they are stored."""
        rows = self.rows
        if isinstance(rows.features[columns.image], datasets.Image):
            rows = rows.cast_column(columns.image, datasets.Image(decode=False))
        return ImageRows(rows, columns, indices, self.folder)

    def find_columns(self, options: Mapping[str, str | None]) -> ImageColumns:
        """The columns that `image_column` and `label_column` name, or those with the usual names for null.

        Raises:
            ValueError: if there is none.
        """
        return ImageColumns(
            image=self._find("image_column", options["image_column"], IMAGE_COLUMNS),
            label=self._find("label_column", options["label_column"], LABEL_COLUMNS),
            file=next((name for name in FILE_COLUMNS if name in self.rows.features), None),
        )

    def label_names(self, columns: ImageColumns) -> tuple[str, ...]:
        """Names of the classes by id, if the label column has them."""
        return tuple(getattr(self.rows.features[columns.label], "names", None) or ())

    def _find(self, option: str, wanted: str | None, usual: tuple[str, ...]) -> str:
        for name in usual if wanted is None else (wanted,):
            if name in self.rows.features:
                return name
        there = ", ".join(self.rows.features)
        raise ValueError(
            f"{option} must be one of the columns of {self.source} ({there}), got {wanted or 'null, and none is usual'}"
        )


def open_local(paths: Mapping[str, Path]) -> dict[str, ImageTable]:
    """Splits from class folders or Parquet files; Parquet is kept unpacked in the cache of the datasets library.

    Raises:
        ValueError: if a class folder has no image, or a file is not readable as Parquet.
    """
    tables = {}
    for split, path in paths.items():
        source = f"{path.resolve().parent.name}/{path.name}"
        if path.is_dir():
            files, labels = image_files(path)
            tables[split] = ImageTable(datasets.Dataset.from_dict({"image": files, "label": labels}), source, path)
        else:
            rows = _load("parquet", f"{path}", data_files={split: str(path)}, split=split)
            tables[split] = ImageTable(rows, source, path.parent)
    return tables


def open_hub(hub: str, splits: Mapping[str, str]) -> dict[str, ImageTable]:
    """Splits of a data set on the hub, by the names they have there.

    Raises:
        ValueError: if there is no such data set, or it asks for a login.
        ConnectionError: if the hub cannot be reached.
    """
    # The name of a local copy is enough: where it lies differs between machines.
    origin = Path(hub).resolve().name if Path(hub).is_dir() else hub
    loaded = _load(hub, f"the data set {hub!r} (set task.root=DIR for local images)", split=[*splits.values()])
    return {
        split: ImageTable(rows, f"{origin}@{name}") for (split, name), rows in zip(splits.items(), loaded, strict=True)
    }


def _load(path: str, what: str, **options: Any) -> Any:
    try:
        return datasets.load_dataset(path, **options)
    except (FileNotFoundError, ValueError, datasets.exceptions.DatasetsError) as error:
        reason = error.__cause__ or error
        raise ValueError(f"cannot read {what}: {' '.join(str(reason).split())}") from error
    except OSError as error:
        raise ConnectionError(f"cannot read {what}: {' '.join(str(error).split())}") from error
