"""Pathfinder: do two dots end the same dashed curve?"""

import math
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mimicry.data.draws import Draws
from mimicry.data.generated import check_at_least
from mimicry.data.lra import pathfinder_release, release
from mimicry.data.lra.generated import SplitSizes, draw_chunks
from mimicry.data.lra.pathfinder_pictures import CurveRules, draw_pictures
from mimicry.data.lra.pathfinder_strokes import SIZE
from mimicry.data.lra.pixels import GRAY_VALUES
from mimicry.data.lra.sequences import METRICS, SequenceExample, SequenceFormat, SplitRows, build_sequence_data
from mimicry.data.lra.store import file_facts, store_folder, stored
from mimicry.data.task import RowLimits, TaskData, draw_indices

if TYPE_CHECKING:
    from mimicry.data.batches import Encoder

FORMAT = SequenceFormat(GRAY_VALUES, padded=False, cut=False, width=SIZE)
# To be raised with every change of what a seed draws.
DRAWS = 1


class Pathfinder32:
    """Pictures of 32x32 gray values, each a sequence of 1,024 pixels, row after row; half are positive.

    The test pictures are reported, the validation pictures are there to choose on.

    Args:
        rules: what the curves look like; the number of dashes also names the release's folder: 14 is
            curv_contour_length_14, the level that is reported ("hard").
        sizes: rows of each split when they are drawn; of a limited split only as many are drawn as are kept, the first.
        root: the release's folder pathfinder32, to be read instead of drawing: in a fixed order of its own 80% are
            train, 10% validation, 10% test; null draws.
        seed: names the random numbers.
        max_train_rows: keep this many rows; null keeps all.
        max_validation_rows: keep this many rows of each split that is scored; null keeps all.

    Raises:
        ValueError: if the seed or a limit is out of range.

    Source: Linsley et al. 2018 (arXiv 1805.08315), with the rules of Tay et al. 2020 (arXiv 2011.04006).
    """

    name = "pathfinder32"
    modality = "sequence"
    num_labels = 2
    metrics = METRICS
    vocab_size = FORMAT.vocab_size
    towers = 1
    max_length = SIZE * SIZE

    def __init__(
        self,
        rules: CurveRules,
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

    def check(self) -> None:
        """Look for the local files, and read the lists of pictures.

        Raises:
            ValueError: if the release has no such level, or a list is missing or bad.
        """
        if self.root is not None:
            self._entries(self.root)

    def load(self) -> TaskData:
        """Read or draw every picture that the cache lacks.

        Raises:
            ValueError: if a list or a picture is missing or bad.
        """
        splits, missing = self._draw() if self.root is None else self._read(self.root)
        return build_sequence_data(self, self.limits, splits, ("apart", "joined"), missing)

    def encoder(self, processor: Any, max_length: int) -> "Encoder":
        """Turns gray values into ids; there is no `processor`, and pictures are never cut."""
        # Slow to import, and only needed here.
        from mimicry.data.lra.encoder import SequenceEncoder

        return SequenceEncoder(FORMAT, self.num_labels, max_length)

    def _entries(self, root: Path) -> tuple[list[Path], list[pathfinder_release.Entry]]:
        if self.rules.contour_length not in pathfinder_release.LEVELS:
            known = ", ".join(map(str, pathfinder_release.LEVELS))
            raise ValueError(f"contour_length must be one of {known} to read root, got {self.rules.contour_length}")
        lists = pathfinder_release.find_lists(root / pathfinder_release.LEVELS[self.rules.contour_length])
        return lists, [entry for path in lists for entry in pathfinder_release.read_list(path)]

    def _read(self, root: Path) -> tuple[dict[str, SplitRows], tuple[str, ...]]:
        lists, entries = self._entries(root)
        folder = store_folder(self.name, {"lists": [file_facts(path) for path in lists]})
        rows = partial(pathfinder_release.read_pictures, entries)
        table = stored(folder / "rows.arrow", rows, "Reading pictures", len(entries))
        level = lists[0].parent.parent
        whole, note = release.whole_split(table, f"{level.resolve().parent.name}/{level.name}")
        return _split(whole), note

    def _draw(self) -> tuple[dict[str, SplitRows], tuple[str, ...]]:
        return {split: self._draw_split(split) for split in ("train", "validation", "test")}, ()

    def _draw_split(self, split: str) -> SplitRows:
        size, chunk = self.sizes.of(split), self.sizes.chunk(split)
        limit = self.limits.max_train_rows if split == "train" else self.limits.max_validation_rows
        wanted = min(size, limit or size)
        facts = {"rules": asdict(self.rules), "seed": self.seed, "chunk": chunk, "draws": DRAWS}
        make = partial(draw_chunk, self.rules, chunk, self.seed)
        table = draw_chunks(store_folder(self.name, facts), split, math.ceil(wanted / chunk), make, self.name)
        return SplitRows(table, range(wanted), f"drawn with seed {self.seed}", size)


def draw_chunk(rules: CurveRules, count: int, seed: int, split: int, number: int) -> list[SequenceExample]:
    """The rows of one chunk."""
    pictures, labels = draw_pictures(rules, count, Draws(seed, split, number))
    return [SequenceExample(picture.tobytes(), int(label)) for picture, label in zip(pictures, labels, strict=True)]


def _split(whole: SplitRows) -> dict[str, SplitRows]:
    tenth = len(whole.indices) // 10
    scored = draw_indices(len(whole.indices), 2 * tenth)
    kept = sorted(set(range(len(whole.indices))) - set(scored))
    # Every other one, because what is drawn comes in order.
    places = {"train": kept, "validation": scored[::2], "test": scored[1::2]}
    return {
        split: SplitRows(whole.table, [whole.indices[place] for place in those], whole.source, len(those))
        for split, those in places.items()
    }
