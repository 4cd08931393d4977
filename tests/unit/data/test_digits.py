from collections import Counter

import numpy as np
import pytest
from transformers import ViTImageProcessorPil

from mimicry.data.digits import Digits
from mimicry.data.task import Task


def test_the_split_is_fixed_disjoint_and_stratified() -> None:
    task = Digits()
    assert isinstance(task, Task)
    task.check()
    data = task.load()
    validation = data.validation["validation"]
    assert (len(data.train), len(validation)) == (1297, 500)
    assert not {row.image.tobytes() for row in data.train} & {row.image.tobytes() for row in validation}
    assert set(Counter(row.label for row in validation).values()) <= set(range(48, 52))
    assert (data.name, data.num_labels, data.metrics) == ("digits", 10, ("top1", "top5"))
    assert data.label_names == tuple("0123456789")
    assert data.sources["train"].startswith("scikit-learn==")
    assert task.load().fingerprint == data.fingerprint


def test_pixels_fill_the_range_of_eight_bits() -> None:
    (row, *_) = Digits(max_train_rows=1).load().train
    assert (row.image.shape, row.image.dtype, row.image.min(), row.image.max()) == ((8, 8), np.uint8, 0, 255)


def test_the_limits_cut_their_split_and_change_the_fingerprint() -> None:
    data = Digits(max_train_rows=10, max_validation_rows=20).load()
    assert (len(data.train), len(data.validation["validation"])) == (10, 20)
    assert data.available == {"train": 1297, "validation": 500}
    assert data.fingerprint != Digits().load().fingerprint


def test_a_limit_below_one_is_refused() -> None:
    with pytest.raises(ValueError, match=r"^max_validation_rows must be >= 1 or null, got 0$"):
        Digits(max_validation_rows=0)


def test_batches_are_scaled_to_the_model_s_images() -> None:
    task = Digits(max_train_rows=3)
    half = [0.5] * 3
    encoder = task.encoder(ViTImageProcessorPil(size={"height": 8, "width": 8}, image_mean=half, image_std=half), 17)
    batch = encoder.collate(task.load().train)
    assert batch["pixel_values"].shape == (3, 3, 8, 8)
    assert (batch["pixel_values"].min(), batch["pixel_values"].max()) == (-1, 1)
