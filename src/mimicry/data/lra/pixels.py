"""Long Range Arena's Image task: what does a picture show, read pixel by pixel?"""

from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mimicry.data.lra.sequences import METRICS, SequenceExample, SequenceFormat, SplitRows, build_sequence_data
from mimicry.data.lra.store import file_facts, store_folder, stored
from mimicry.data.task import RowLimits, TaskData, draw_indices

if TYPE_CHECKING:
    import numpy as np

    from mimicry.data.batches import Encoder

WIDTH = 32
GRAY_VALUES = tuple(map(str, range(256)))
FORMAT = SequenceFormat(GRAY_VALUES, padded=False, cut=False, width=WIDTH)
LABELS = ("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck")
# A tenth of the training images, as in LRA, which takes the last tenth of an order of its own.
VALIDATION_ROWS = 5000
# Red, green and blue: 0.2989, 0.587 and 0.114 of a whole.
WEIGHTS = (2989, 5870, 1140)
WHOLE = 10_000


class LraImage:
    """CIFAR-10 in 256 shades of gray, each image a sequence of 1,024 pixels, row after row.

    The test images are reported; a fixed tenth of the training images is the validation split, there to choose on.

    Args:
        hub: data set on the hub, or a local folder in the hub's layout; read only when `root` is null.
        root: folder with train.parquet and test.parquet, each with a column of image files (as bytes) and one of class
            ids in the usual order; null reads from the hub.
        max_train_rows: keep this many evenly drawn rows; null keeps all.
        max_validation_rows: keep this many evenly drawn rows of each split that is scored; null keeps all.

    Raises:
        ValueError: if a limit is below 1.

    Source: Krizhevsky 2009; as a pixel task Tay et al. 2020 (arXiv 2011.04006).
    """

    name = "lra_image"
    modality = "sequence"
    num_labels = len(LABELS)
    metrics = METRICS
    vocab_size = FORMAT.vocab_size
    towers = 1
    max_length = WIDTH * WIDTH

    def __init__(
        self,
        hub: str = "uoft-cs/cifar10",
        root: str | None = None,
        max_train_rows: int | None = None,
        max_validation_rows: int | None = None,
    ) -> None:
        self.hub = hub
        self.root = None if root is None else Path(root).expanduser()
        self.limits = RowLimits(max_train_rows, max_validation_rows)

    def check(self) -> None:
        """Look for the local files; images and the hub are left for later.

        Raises:
            ValueError: if a file is missing.
        """
        if self.root is not None:
            self._files(self.root)

    def load(self) -> TaskData:
        """Read every image that the cache lacks.

        Raises:
            ValueError: if a file is missing, the hub has no such data set, or an image or label is bad.
            ConnectionError: if the hub cannot be reached.
        """
        # Slow to import, and only needed here.
        from mimicry.data.image_tables import open_hub, open_local

        if self.root is None:
            tables = open_hub(self.hub, {"train": "train", "test": "test"})
            facts = {s: [file_facts(Path(file["filename"])) for file in t.rows.cache_files] for s, t in tables.items()}
        else:
            files = self._files(self.root)
            tables = open_local(files)
            facts = {split: [file_facts(path)] for split, path in files.items()}
        whole = {}
        for split, table in tables.items():
            folder = store_folder(self.name, {"facts": facts[split]})
            rows = partial(read_gray, table, split)
            whole[split] = stored(folder / "rows.arrow", rows, f"Reading {table.source}", len(table.rows))
        return build_sequence_data(self, self.limits, self._split(whole, tables), LABELS)

    def encoder(self, processor: Any, max_length: int) -> "Encoder":
        """Turns gray values into ids; there is no `processor`, and images are never cut."""
        # Slow to import, and only needed here.
        from mimicry.data.lra.encoder import SequenceEncoder

        return SequenceEncoder(FORMAT, self.num_labels, max_length)

    def _split(self, whole: dict[str, Any], tables: dict[str, Any]) -> dict[str, SplitRows]:
        count = len(whole["train"])
        held = draw_indices(count, min(VALIDATION_ROWS, count // 10))
        kept = sorted(set(range(count)) - set(held))
        source = tables["train"].source
        return {
            "train": SplitRows(whole["train"], kept, source, len(kept)),
            "validation": SplitRows(whole["train"], held, f"{source}, held out", len(held)),
            "test": SplitRows(whole["test"], range(len(whole["test"])), tables["test"].source, len(whole["test"])),
        }

    def _files(self, root: Path) -> dict[str, Path]:
        files = {split: root / f"{split}.parquet" for split in ("train", "test")}
        for path in files.values():
            if not path.is_file():
                raise ValueError(f"root must hold train.parquet and test.parquet, got {root} without {path.name}")
        return files


def read_gray(table: Any, split: str) -> Iterator[SequenceExample]:
    """The images of a table as gray sequences.

    Args:
        table: an `ImageTable`.
        split: named in messages.

    Raises:
        ValueError: naming split, row and file, if an image does not decode or is not 32x32, or a label is out of range.
    """
    # Slow to import, and only needed here.
    import numpy as np

    from mimicry.data.image_rows import UNDECODABLE, open_image

    columns = table.find_columns({"image_column": None, "label_column": None})
    rows = table.choose(columns, list(range(len(table.rows))))
    for index in range(len(rows)):
        stored_image, label = rows.stored(index)
        try:
            pixels = np.asarray(open_image(rows.read(stored_image)).convert("RGB"))
        except UNDECODABLE as error:
            reason = " ".join(str(error).split())
            raise ValueError(f"{split} {rows.describe(index)}: image does not decode ({reason})") from error
        if pixels.shape[:2] != (WIDTH, WIDTH):
            height, width = pixels.shape[:2]
            raise ValueError(f"{split} {rows.describe(index)}: image must be {WIDTH}x{WIDTH}, got {width}x{height}")
        if type(label) is not int or label not in range(len(LABELS)):
            raise ValueError(f"{split} {rows.describe(index)}: label must be from 0 to 9, got {label!r}")
        yield SequenceExample(to_gray(pixels).tobytes(), label)


def to_gray(pixels: "np.ndarray") -> "np.ndarray":
    """0.2989 R + 0.587 G + 0.114 B, scaled by 255.5 / 255 and cut to an integer, in exact arithmetic.

    Args:
        pixels: uint8 of shape (height, width, 3).

    Returns:
        uint8 of shape (height, width).

    Source: tf.image.rgb_to_grayscale on 8-bit images, which LRA uses; its 32-bit floats may differ by one step.
    """
    import numpy as np

    weighted = pixels.astype(np.int64) @ np.array(WEIGHTS)
    return (weighted * 511 // (510 * WHOLE)).astype(np.uint8)
