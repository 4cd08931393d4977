"""The default task for images: which digit is it?"""

import hashlib
from typing import TYPE_CHECKING, Any

from mimicry.data.images import image_metrics
from mimicry.data.task import ImageExample, RowLimits, TaskData, limit_rows

if TYPE_CHECKING:
    from mimicry.data.batches import Encoder

NUM_LABELS = 10
# Ink of a pixel as scikit-learn has it, from 0 to 16.
MAX_INK = 16
VALIDATION_ROWS = 500


class Digits:
    """1,797 handwritten digits of 8x8 gray pixels, about 180 of each, as they come with scikit-learn.

    The split is fixed: 1,297 rows to train on and 500 to score on, stratified by digit.

    Args:
        max_train_rows: keep this many evenly drawn rows; null keeps all.
        max_validation_rows: keep this many evenly drawn rows; null keeps all.

    Raises:
        ValueError: if a limit is below 1.

    Source: the test part of "Optical Recognition of Handwritten Digits", Alpaydin and Kaynak 1998, UCI.
    """

    name = "digits"
    modality = "image"
    num_labels = NUM_LABELS
    metrics = image_metrics(NUM_LABELS)

    def __init__(self, max_train_rows: int | None = None, max_validation_rows: int | None = None) -> None:
        self.limits = RowLimits(max_train_rows, max_validation_rows)

    def check(self) -> None:
        """Nothing is left to refuse."""

    def load(self) -> TaskData:
        """Read the digits from the installed package, and split them."""
        # Slow to import, and only needed here.
        import sklearn
        from sklearn.datasets import load_digits
        from sklearn.model_selection import train_test_split

        digits = load_digits()
        pixels = (digits.images * (255 / MAX_INK)).round().astype("uint8")
        rows = [ImageExample(image, int(label)) for image, label in zip(pixels, digits.target, strict=True)]
        train, validation = train_test_split(rows, test_size=VALIDATION_ROWS, random_state=0, stratify=digits.target)
        splits = {
            "train": limit_rows(train, self.limits.max_train_rows),
            "validation": limit_rows(validation, self.limits.max_validation_rows),
        }
        digest = hashlib.sha256()
        for split, chosen in splits.items():
            for row in chosen:
                digest.update(f"{split} {row.label} ".encode() + row.image.tobytes())
        return TaskData(
            name=self.name,
            num_labels=self.num_labels,
            metrics=self.metrics,
            train=splits["train"],
            validation={"validation": splits["validation"]},
            sources=dict.fromkeys(splits, f"scikit-learn=={sklearn.__version__} load_digits"),
            fingerprint=digest.hexdigest(),
            label_names=tuple(map(str, digits.target_names)),
            available={"train": len(train), "validation": len(validation)},
        )

    def encoder(self, processor: Any, max_length: int) -> "Encoder":
        """Enlarges digits to the model's image size; `max_length` is the number of its tokens."""
        # Slow to import, and only needed here.
        from mimicry.data.image_batches import ImageEncoder

        return ImageEncoder(processor, max_length)
