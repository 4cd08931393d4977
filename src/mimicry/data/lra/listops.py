"""ListOps: what does a nested list of operations evaluate to?"""

import hashlib
import math
from collections.abc import Iterator
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mimicry.data.draws import Draws
from mimicry.data.generated import check_at_least
from mimicry.data.lra import release
from mimicry.data.lra.generated import SplitSizes, draw_chunks
from mimicry.data.lra.listops_language import TOKENS, evaluate, read_source
from mimicry.data.lra.listops_trees import DIGITS, TreeRules, draw_trees
from mimicry.data.lra.sequences import METRICS, SequenceExample, SequenceFormat, SplitRows, build_sequence_data
from mimicry.data.lra.store import file_facts, store_folder, stored
from mimicry.data.task import RowLimits, TaskData
from mimicry.data.tsv import read_tsv

if TYPE_CHECKING:
    from mimicry.data.batches import Encoder

FORMAT = SequenceFormat(TOKENS, padded=True, cut=False)
FILES = {"train": "basic_train", "validation": "basic_val", "test": "basic_test"}
# To be raised with every change of what a seed draws.
DRAWS = 1
# A split whose rules leave so few different trees that it takes more chunks than this many times the usual is refused.
PATIENCE = 2


class ListOps:
    """Ten-way classification of expressions such as `[MAX 2 9 [MIN 4 7 ] 0 ]`, of 500 to 2,000 tokens.

    The test rows are reported, the validation rows are there to choose on; no tree is drawn twice in any of them.

    Args:
        rules: which trees are drawn.
        sizes: rows of each split; of a limited train split only as many are drawn as are kept, the first ones.
        root: folder with the release's basic_train.tsv, basic_val.tsv and basic_test.tsv (each may be gzipped), to be
            read instead of drawing; null draws.
        seed: names the random numbers.
        max_train_rows: keep this many rows; null keeps all.
        max_validation_rows: keep this many evenly drawn rows of each split that is scored; null keeps all.

    Raises:
        ValueError: if the seed or a limit is out of range.

    Source: Nangia and Bowman 2018 (arXiv 1804.06028), with the rules of Tay et al. 2020 (arXiv 2011.04006).
    """

    name = "listops"
    modality = "sequence"
    num_labels = DIGITS
    metrics = METRICS
    vocab_size = FORMAT.vocab_size
    towers = 1

    def __init__(
        self,
        rules: TreeRules,
        sizes: SplitSizes,
        root: str | None = None,
        seed: int = 0,
        max_train_rows: int | None = None,
        max_validation_rows: int | None = None,
    ) -> None:
        check_at_least("seed", seed, 0)
        self.rules = rules
        self.sizes = sizes
        self.root = None if root is None else Path(root).expanduser()
        self.seed = seed
        self.limits = RowLimits(max_train_rows, max_validation_rows)
        # Trees are shorter than the rules' bound, those of the release too.
        self.max_length = rules.max_length

    def check(self) -> None:
        """Look for the local files, and read the first row of each.

        Raises:
            ValueError: if a file is missing, or its first row is bad.
        """
        if self.root is not None:
            for path in release.find_files(self.root, FILES, ".tsv")[0].values():
                next(read_file(path, self.max_length))

    def load(self) -> TaskData:
        """Read or draw every row that the cache lacks.

        Raises:
            ValueError: if a file is missing, a row is bad, or the rules leave too few trees.
        """
        splits, missing = self._draw() if self.root is None else self._read(self.root)
        return build_sequence_data(self, self.limits, splits, missing=missing)

    def encoder(self, processor: Any, max_length: int) -> "Encoder":
        """Turns tokens into ids; there is no `processor`, and rows are never cut."""
        # Slow to import, and only needed here.
        from mimicry.data.lra.encoder import SequenceEncoder

        return SequenceEncoder(FORMAT, self.num_labels, max_length)

    def _read(self, root: Path) -> tuple[dict[str, SplitRows], tuple[str, ...]]:
        files, missing = release.find_files(root, FILES, ".tsv")
        splits = {}
        for split, path in files.items():
            folder = store_folder(self.name, {"file": file_facts(path), "max_length": self.max_length})
            rows = partial(read_file, path, self.max_length)
            table = stored(folder / "rows.arrow", rows, f"Reading {path.name}")
            splits[split] = SplitRows(table, range(len(table)), f"{root.resolve().name}/{path.name}", len(table))
        return splits, missing

    def _draw(self) -> tuple[dict[str, SplitRows], tuple[str, ...]]:
        seen: set[bytes] = set()
        # Train comes last: it gives way where a tree is drawn again.
        return {split: self._draw_split(split, seen) for split in ("test", "validation", "train")}, ()

    def _draw_split(self, split: str, seen: set[bytes]) -> SplitRows:
        size, chunk = self.sizes.of(split), self.sizes.chunk(split)
        wanted = min(size, self.limits.max_train_rows or size) if split == "train" else size
        folder = store_folder(
            self.name, {"rules": asdict(self.rules), "seed": self.seed, "chunk": chunk, "draws": DRAWS}
        )
        make = partial(draw_chunk, self.rules, chunk, self.seed)
        usual = math.ceil(wanted / chunk)
        for chunks in range(usual, PATIENCE * usual + 1):
            table = draw_chunks(folder, split, chunks, make, self.name)
            fresh = _first_fresh(table, wanted, seen)
            if len(fresh) == wanted:
                seen |= set(fresh)
                return SplitRows(table, list(fresh.values()), f"drawn with seed {self.seed}", size)
        raise ValueError(f"rules must leave at least {size} different trees for {split}, got {len(fresh)}")


def read_file(path: Path, max_length: int) -> Iterator[SequenceExample]:
    """The rows of a release file: a header line, then the tree in `Source` and its value in `Target`.

    Args:
        path: the file.
        max_length: of a tree in tokens; none is cut, which would change its value.

    Raises:
        ValueError: naming file and line, if a tree is not well formed or too long, or `Target` is not its value.
    """
    for place, row in read_tsv(path, wanted=("Source", "Target")):
        try:
            symbols = read_source(row["Source"])
            value = evaluate(symbols)
        except ValueError as error:
            raise ValueError(f"{place}: {error}") from None
        if len(symbols) > max_length:
            raise ValueError(
                f"{place}: Source must have at most {max_length} tokens (raise task.rules.max_length), "
                f"got {len(symbols)}"
            )
        if row["Target"] != str(value):
            raise ValueError(f"{place}: Target must be the value of Source, {value}, got {row['Target']!r}")
        yield SequenceExample(symbols, value)


def draw_chunk(rules: TreeRules, count: int, seed: int, split: int, number: int) -> list[SequenceExample]:
    """The rows of one chunk, all different."""
    trees, values = draw_trees(rules, count, Draws(seed, split, number))
    return [SequenceExample(symbols, value) for symbols, value in zip(trees, values, strict=True)]


def _first_fresh(table: Any, wanted: int, seen: set[bytes]) -> dict[bytes, int]:
    """Digest and position of the first rows that were not seen before, at most `wanted`."""
    fresh: dict[bytes, int] = {}
    for position, symbols in enumerate(table.column("symbols")):
        digest = hashlib.blake2b(symbols.as_buffer(), digest_size=16).digest()
        if digest not in seen and len(fresh) < wanted:
            fresh.setdefault(digest, position)
    return fresh
