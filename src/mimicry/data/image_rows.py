"""Images as rows that stay on disk until they are asked for, and the one pass that checks all of them."""

import hashlib
import io
import json
import os
import struct
from array import array
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from PIL import Image
from rich.console import Console
from rich.progress import track

from mimicry.data.task import ImageExample

# What PIL raises for damaged files, depending on the format.
UNDECODABLE = (OSError, ValueError, SyntaxError, EOFError, struct.error, Image.DecompressionBombError)
# Rows in flight; more would hold more images in memory.
CHUNK = 1024
# Fewer images are checked before a progress bar could be read.
QUIET_ROWS = 2000
# JPEG decodes to about this size several times faster than in full, and still reads every byte.
DRAFT_SIZE = (32, 32)


@dataclass(frozen=True)
class ImageColumns:
    """Names of the columns that hold the image, its class id, and the name of its file (None: no such column)."""

    image: str
    label: str
    file: str | None


class ImageRows(Sequence[Any]):
    """Rows of a memory-mapped table; each is read when it is asked for, and its image decoded later still.

    Args:
        table: a `datasets.Dataset` whose images are bytes, paths, or structs of `bytes` and `path`.
        columns: its columns to read.
        indices: which of its rows, in order.
        folder: paths are relative to it.
    """

    def __init__(self, table: Any, columns: ImageColumns, indices: Sequence[int], folder: Path) -> None:
        wanted = [column for column in (columns.image, columns.label, columns.file) if column is not None]
        self.table = table.select_columns(list(dict.fromkeys(wanted)))
        self.columns = columns
        # A list of a million numbers would be copied page by page into every worker process that touches it.
        self.indices = array("q", indices)
        self.folder = folder

    def __len__(self) -> int:
        return len(self.indices)

    def __getitem__(self, index: int) -> ImageExample:
        image, label = self.stored(index)
        return ImageExample(self.read(image), label)

    def stored(self, index: int) -> tuple[Any, Any]:
        """What the table holds for the image and for the label of a row."""
        row = self._row(index)
        return row[self.columns.image], row[self.columns.label]

    def read(self, image: Any) -> bytes:
        """The bytes of an image file, from what the table holds for it.

        Raises:
            ValueError: if it holds neither bytes nor a path.
            OSError: if the file cannot be read.
        """
        if isinstance(image, dict):
            image = image["path"] if image["bytes"] is None else image["bytes"]
        if isinstance(image, str):
            return (self.folder / image).read_bytes()
        if not isinstance(image, bytes):
            raise ValueError(f"must be the bytes of a file or its path, got {type(image).__name__}")
        return image

    def describe(self, index: int) -> str:
        """Where a row comes from, for messages: its number in the table, and its file if that is known."""
        number, row = self.indices[index], self._row(index)
        image = row[self.columns.image]
        path = image.get("path") if isinstance(image, dict) else image if isinstance(image, str) else None
        file = path or (self.columns.file and row[self.columns.file])
        return f"row {number} ({file})" if file else f"row {number}"

    def _row(self, index: int) -> dict[str, Any]:
        return self.table[self.indices[index]]


def open_image(data: bytes) -> Image.Image:
    """The image of a file's bytes, not decoded yet.

    Raises:
        ValueError: if it is of no known format, or its pixels are wider than 8 bits: PIL would clip them silently.
    """
    try:
        image = Image.open(io.BytesIO(data))
    except Image.UnidentifiedImageError as error:
        # PIL's own message holds the address of a buffer.
        raise ValueError("not an image file of a known format") from error
    if image.mode in ("I", "F") or image.mode.startswith("I;"):
        raise ValueError(f"pixels must have 8 bits per channel, got mode {image.mode}")
    return image


def verify_images(splits: Mapping[str, ImageRows], num_labels: int) -> str:
    """Read every row once: check its label, decode its image, and hash both.

    Returns:
        sha256 over (split, label, sha256 of the image's bytes) of all rows.

    Raises:
        ValueError: naming split, row and file, if a label is out of range or an image does not decode.
    """
    digest = hashlib.sha256()
    total = sum(map(len, splits.values()))
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        findings = track(
            _inspect_all(splits, num_labels, pool),
            description="Checking images",
            total=total,
            console=Console(stderr=True),
            disable=total <= QUIET_ROWS,
        )
        for split, index, finding in findings:
            if finding.problem is not None:
                raise ValueError(f"{split} {splits[split].describe(index)}: {finding.problem}")
            digest.update(json.dumps([split, finding.label, finding.sha256]).encode() + b"\n")
    return digest.hexdigest()


@dataclass(frozen=True)
class _Finding:
    label: Any = None
    sha256: str = ""
    problem: str | None = None


def _inspect_all(
    splits: Mapping[str, ImageRows], num_labels: int, pool: ThreadPoolExecutor
) -> Iterator[tuple[str, int, _Finding]]:
    """In order, a chunk at a time: `map` alone would read ahead without limit."""
    for split, rows in splits.items():
        for start in range(0, len(rows), CHUNK):
            indices = range(start, min(start + CHUNK, len(rows)))
            findings = pool.map(partial(_inspect, rows, num_labels), indices)
            for index, finding in zip(indices, findings, strict=True):
                yield split, index, finding


def _inspect(rows: ImageRows, num_labels: int, index: int) -> _Finding:
    try:
        stored, label = rows.stored(index)
        if not (type(label) is int and 0 <= label < num_labels):
            return _Finding(problem=f"label must be from 0 to {num_labels - 1}, got {label!r}")
        data = rows.read(stored)
        image = open_image(data)
        image.draft(image.mode, DRAFT_SIZE)
        image.load()
    except UNDECODABLE as error:
        return _Finding(problem=f"image does not decode ({' '.join(str(error).split())})")
    return _Finding(label, hashlib.sha256(data).hexdigest())
