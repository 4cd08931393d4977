"""Long Range Arena's Text task: is a movie review positive, read byte by byte?"""

import json
import reprlib
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mimicry.data import hub
from mimicry.data.generated import check_at_least
from mimicry.data.lines import read_lines
from mimicry.data.lra import release
from mimicry.data.lra.sequences import METRICS, SequenceExample, SequenceFormat, build_sequence_data
from mimicry.data.lra.store import file_facts, store_folder, stored
from mimicry.data.task import RowLimits, TaskData

if TYPE_CHECKING:
    from mimicry.data.batches import Encoder

# A byte that is no printable ASCII character is named by its number.
BYTES = tuple(chr(byte) if 32 <= byte < 127 else f"\\x{byte:02x}" for byte in range(256))
FORMAT = SequenceFormat(BYTES, padded=True, cut=True)
LABELS = ("negative", "positive")
SPLITS = ("train", "test")


class LraText:
    """IMDb's 25,000 + 25,000 labelled reviews as UTF-8 bytes, markup included; the first `max_length` are read.

    LRA has no validation rows here (its code validates on the test rows): choose on held-out rows of train.

    Args:
        hub: data set on the hub, or a local folder in the hub's layout; read only when `root` is null.
        root: folder with train.jsonl and test.jsonl (each may be gzipped): one JSON object a line, with a `text` and a
            `label`, 0 for negative and 1 for positive; null reads from the hub.
        max_length: in bytes; what comes after is dropped, as in LRA.
        max_train_rows: keep this many evenly drawn rows; null keeps all.
        max_validation_rows: keep this many evenly drawn rows; null keeps all.

    Raises:
        ValueError: if a number is below 1.

    Source: Maas et al. 2011; as a byte task Tay et al. 2020 (arXiv 2011.04006).
    """

    name = "lra_text"
    modality = "sequence"
    num_labels = len(LABELS)
    metrics = METRICS
    vocab_size = FORMAT.vocab_size
    towers = 1

    def __init__(
        self,
        hub: str = "stanfordnlp/imdb",
        root: str | None = None,
        max_length: int = 4000,
        max_train_rows: int | None = None,
        max_validation_rows: int | None = None,
    ) -> None:
        check_at_least("max_length", max_length, 1)
        self.hub = hub
        self.root = None if root is None else Path(root).expanduser()
        self.max_length = max_length
        self.limits = RowLimits(max_train_rows, max_validation_rows)

    def check(self) -> None:
        """Look for the local files, and read the first row of each; the hub is not asked.

        Raises:
            ValueError: if a file is missing, or its first row is bad.
        """
        if self.root is not None:
            for path in self._files(self.root).values():
                next(read_file(path))

    def load(self) -> TaskData:
        """Read every row that the cache lacks.

        Raises:
            ValueError: if a file is missing, the hub has no such data set, or a row is bad.
            ConnectionError: if the hub cannot be reached.
        """
        splits = {}
        notes: list[str] = []
        for split, (facts, source, rows) in self._sources().items():
            folder = store_folder(self.name, {"facts": facts})
            table = stored(folder / "rows.arrow", rows, f"Reading {source}")
            splits[split], note = release.whole_split(table, source)
            notes += note
        return build_sequence_data(self, self.limits, splits, LABELS, tuple(notes))

    def encoder(self, processor: Any, max_length: int) -> "Encoder":
        """Turns bytes into ids; there is no `processor`, and rows are cut at the smaller `max_length`."""
        # Slow to import, and only needed here.
        from mimicry.data.lra.encoder import SequenceEncoder

        return SequenceEncoder(FORMAT, self.num_labels, min(max_length, self.max_length))

    def _files(self, root: Path) -> dict[str, Path]:
        return release.find_files(root, dict(zip(SPLITS, SPLITS, strict=True)), ".jsonl")[0]

    def _sources(self) -> dict[str, tuple[Any, str, Any]]:
        """Of each split: what its rows depend on, what it is called, and what reads it."""
        if self.root is not None:
            name = self.root.resolve().name
            return {
                split: (file_facts(path), f"{name}/{path.name}", partial(read_file, path))
                for split, path in self._files(self.root).items()
            }
        tables = hub.load_splits(self.hub, None, SPLITS, self.name, "reviews")
        sources = {split: hub.origin(self.hub, split) for split in SPLITS}
        return {
            split: (
                [file_facts(Path(file["filename"])) for file in table.cache_files],
                sources[split],
                partial(read_table, table, sources[split]),
            )
            for split, table in tables.items()
        }


def read_file(path: Path) -> Iterator[SequenceExample]:
    """The rows of a file of JSON lines; blank lines at its end are none.

    Raises:
        ValueError: naming file and line, if a line is no JSON object with a text and a label of 0 or 1.
    """
    blank, empty = "", True
    for place, line in read_lines(path):
        if not line.strip():
            blank = blank or place
            continue
        if blank:
            raise ValueError(f"{blank}: line must be a JSON object, got a blank line before the last row")
        try:
            row = json.loads(line)
        except json.JSONDecodeError as error:
            raise ValueError(f"{place}: line must be a JSON object, got {error.msg}") from None
        # What is JSON, but more than Python reads: thousands of digits, or of brackets inside each other.
        except (ValueError, RecursionError) as error:
            raise ValueError(f"{place}: line must be a JSON object that can be read, got {error}") from None
        if not isinstance(row, dict) or not {"text", "label"} <= set(row):
            raise ValueError(f"{place}: line must be a JSON object with text and label")
        yield _example(row["text"], row["label"], place)
        empty = False
    if empty:
        raise ValueError(f"{path} must have at least one row, got 0")


def read_table(table: Any, source: str) -> Iterator[SequenceExample]:
    """The rows of a `datasets.Dataset`.

    Raises:
        ValueError: naming source and row, if a column is missing, or a text or label is bad.
    """
    for column in ("text", "label"):
        hub.check_column(list(table.features), column, source)
    for number, row in enumerate(table):
        yield _example(row["text"], row["label"], f"{source} row {number}")


def _example(text: Any, label: Any, place: str) -> SequenceExample:
    if not isinstance(text, str):
        raise ValueError(f"{place}: text must be a string, got {type(text).__name__}")
    if type(label) is not int or label not in range(len(LABELS)):
        raise ValueError(f"{place}: label must be 0 or 1, got {reprlib.repr(label)}")
    try:
        return SequenceExample(text.encode(), label)
    except UnicodeEncodeError as error:
        # JSON can escape half of a surrogate pair, which is no character.
        found = f"{text[error.start]!r} at position {error.start}"
        raise ValueError(f"{place}: text must be encodable as UTF-8, got {found}") from None
