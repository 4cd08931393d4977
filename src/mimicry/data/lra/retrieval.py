"""Long Range Arena's Retrieval task: does one of two papers cite the other, both read byte by byte?"""

from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mimicry.data.generated import check_at_least
from mimicry.data.lra import release
from mimicry.data.lra.sequences import METRICS, SequenceExample, build_sequence_data
from mimicry.data.lra.store import file_facts, store_folder, stored
from mimicry.data.lra.texts import FORMAT
from mimicry.data.task import RowLimits, TaskData
from mimicry.data.tsv import read_tsv

if TYPE_CHECKING:
    from mimicry.data.batches import Encoder

COLUMNS = ("label", "id1", "id2", "text1", "text2")
FILES = {"train": "new_aan_pairs.train", "validation": "new_aan_pairs.eval", "test": "new_aan_pairs.test"}
# As the release writes them, and as integers.
LABELS = {"0.0": 0, "1.0": 1, "0": 0, "1": 1}


class LraRetrieval:
    """Pairs of papers of the ACL Anthology Network, each cut to its first `max_length` UTF-8 bytes.

    A model reads both with the same weights and compares what it made of them. The test rows are reported, the
    validation rows (147,086 + 18,090 + 17,437 rows in the release) are there to choose on. A release file has no header
    line and five columns with tabs between: the label (0.0 or 1.0), the two papers' ids, and their texts on one line
    each, without quoting.

    Args:
        root: folder with the release's new_aan_pairs.train.tsv, .eval.tsv and .test.tsv (each may be gzipped).
        max_length: in bytes, of each paper; what comes after is dropped, as in LRA.
        max_train_rows: keep this many evenly drawn rows; null keeps all.
        max_validation_rows: keep this many evenly drawn rows of each split that is scored; null keeps all.

    Raises:
        ValueError: if a number is below 1.

    Source: Radev et al. 2013; as a pair task Tay et al. 2020 (arXiv 2011.04006).
    """

    name = "lra_retrieval"
    modality = "sequence"
    num_labels = 2
    metrics = METRICS
    vocab_size = FORMAT.vocab_size
    towers = 2

    def __init__(
        self,
        root: str | None = None,
        max_length: int = 4000,
        max_train_rows: int | None = None,
        max_validation_rows: int | None = None,
    ) -> None:
        check_at_least("max_length", max_length, 1)
        self.root = None if root is None else Path(root).expanduser()
        self.max_length = max_length
        self.limits = RowLimits(max_train_rows, max_validation_rows)

    def check(self) -> None:
        """Look for the files, and read the first row of each.

        Raises:
            ValueError: if there is no folder, a file is missing, or its first row is bad.
        """
        for path in self._find()[0].values():
            next(read_file(path, self.max_length))

    def load(self) -> TaskData:
        """Read every row that the cache lacks.

        Raises:
            ValueError: if a file is missing or a row is bad.
        """
        files, missing = self._find()
        splits, notes = {}, [*missing]
        for split, path in files.items():
            folder = store_folder(self.name, {"file": file_facts(path), "max_length": self.max_length})
            rows = partial(read_file, path, self.max_length)
            table = stored(folder / "rows.arrow", rows, f"Reading {path.name}")
            splits[split], note = release.whole_split(table, f"{path.resolve().parent.name}/{path.name}")
            notes += note
        return build_sequence_data(self, self.limits, splits, ("no citation", "citation"), tuple(notes))

    def encoder(self, processor: Any, max_length: int) -> "Encoder":
        """Turns both papers' bytes into ids; there is no `processor`, and each is cut at the smaller `max_length`."""
        # Slow to import, and only needed here.
        from mimicry.data.lra.encoder import SequenceEncoder

        return SequenceEncoder(FORMAT, self.num_labels, min(max_length, self.max_length))

    def _find(self) -> tuple[dict[str, Path], tuple[str, ...]]:
        if self.root is None:
            raise ValueError("root must be a folder with new_aan_pairs.train.tsv (set task.root=DIR), got null")
        return release.find_files(self.root, FILES, ".tsv")


def read_file(path: Path, max_length: int) -> Iterator[SequenceExample]:
    """The rows of a release file; an empty text stays an empty sequence.

    Raises:
        ValueError: naming file and line, if a row does not have five columns, or its label is not 0 or 1.
    """
    for place, row in read_tsv(path, wanted=COLUMNS, columns=COLUMNS):
        if row["label"] not in LABELS:
            raise ValueError(f"{place}: label must be one of {', '.join(LABELS)}, got {row['label']!r}")
        first, second = (row[column].encode()[:max_length] for column in ("text1", "text2"))
        yield SequenceExample(first, LABELS[row["label"]], second)
