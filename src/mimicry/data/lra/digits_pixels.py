"""A stand-in for the Image task that needs no download: handwritten digits, pixel by pixel."""

from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from mimicry.data.digits import MAX_INK, NUM_LABELS, Digits
from mimicry.data.lra.sequences import METRICS, SequenceExample, SequenceFormat, fingerprint_rows
from mimicry.data.task import ImageExample, TaskData

if TYPE_CHECKING:
    from mimicry.data.batches import Encoder

WIDTH = 8
FORMAT = SequenceFormat(tuple(map(str, range(MAX_INK + 1))), padded=False, cut=False, width=WIDTH)


class DigitsPixels:
    """The rows of the task `digits`, each image a sequence of 64 pixels with an ink of 0 to 16, row after row.

    Args:
        max_train_rows: keep this many evenly drawn rows; null keeps all.
        max_validation_rows: keep this many evenly drawn rows; null keeps all.

    Raises:
        ValueError: if a limit is below 1.
    """

    name = "digits_pixels"
    modality = "sequence"
    num_labels = NUM_LABELS
    metrics = METRICS
    vocab_size = FORMAT.vocab_size
    towers = 1
    max_length = WIDTH * WIDTH

    def __init__(self, max_train_rows: int | None = None, max_validation_rows: int | None = None) -> None:
        self.images = Digits(max_train_rows, max_validation_rows)

    def check(self) -> None:
        """Nothing is left to refuse."""

    def load(self) -> TaskData:
        """Read the digits from the installed package."""
        data = self.images.load()
        splits = {split: _sequences(rows) for split, rows in {"train": data.train, **data.validation}.items()}
        fingerprint = fingerprint_rows(splits)
        train = splits.pop("train")
        return replace(
            data, name=self.name, metrics=self.metrics, train=train, validation=splits, fingerprint=fingerprint
        )

    def encoder(self, processor: Any, max_length: int) -> "Encoder":
        """Turns ink into ids; there is no `processor`, and images are never cut."""
        # Slow to import, and only needed here.
        from mimicry.data.lra.encoder import SequenceEncoder

        return SequenceEncoder(FORMAT, self.num_labels, max_length)


def _sequences(rows: Sequence[ImageExample]) -> tuple[SequenceExample, ...]:
    # 8-bit images are the ink times 255 / 16, rounded.
    return tuple(
        SequenceExample((row.image * (MAX_INK / 255)).round().astype("uint8").tobytes(), row.label) for row in rows
    )
