import io
import re
from pathlib import Path
from typing import Any

import datasets
import numpy as np
import pytest
from PIL import Image

from mimicry.data.batches import Encoder
from mimicry.data.digits import Digits
from mimicry.data.image_tables import ImageTable, open_local
from mimicry.data.lra.digits_pixels import DigitsPixels
from mimicry.data.lra.pixels import LraImage, read_gray, to_gray
from mimicry.data.task import Task

SHARED = Path(__file__).resolve().parents[5] / "shared/data/cifar-10"


def picture(seed: int, size: tuple[int, int] = (32, 32)) -> bytes:
    pixels = np.random.default_rng(seed).integers(0, 256, (size[1], size[0], 3), dtype=np.uint8)
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "PNG")
    return buffer.getvalue()


def write_parquet(root: Path, column: str = "jpeg", **replaced: Any) -> Path:
    """Twenty train images and ten test images; `replaced` is put into the third row of both."""
    root.mkdir(exist_ok=True)
    for split, count in (("train", 20), ("test", 10)):
        rows = [
            {"file": f"n/{i}.png", "label": i % 10, column: picture(i + 100 * (split == "test"))} for i in range(count)
        ]
        rows[2] |= replaced
        datasets.Dataset.from_list(rows).to_parquet(root / f"{split}.parquet")
    return root


def test_gray_is_the_weighted_sum_of_the_colours() -> None:
    colours = np.random.default_rng(0).integers(0, 256, (100, 100, 3), dtype=np.uint8)
    shares = colours.astype(np.float64) / 255 @ [0.2989, 0.587, 0.114]
    np.testing.assert_array_equal(to_gray(colours), np.floor(shares * 255.5 + 1e-9))
    extremes = np.array([[[0, 0, 0], [255, 255, 255], [255, 0, 0], [0, 255, 0], [0, 0, 255]]], dtype=np.uint8)
    assert to_gray(extremes).tolist() == [[0, 255, 76, 149, 29]]


def test_images_become_rows_of_pixels_and_a_tenth_of_train_is_held_out(tmp_path: Path) -> None:
    task = LraImage(root=str(write_parquet(tmp_path / "cifar-10")))
    assert isinstance(task, Task)
    task.check()
    data = task.load()
    assert data.available == {"train": 18, "test": 10, "validation": 2}
    assert list(data.validation) == ["test", "validation"]
    held = {row.symbols for row in data.validation["validation"]}
    assert len(held | {row.symbols for row in data.train}) == 20
    pixels = np.asarray(Image.open(io.BytesIO(picture(103))))
    assert data.validation["test"][3].symbols == to_gray(pixels).tobytes()
    assert data.validation["test"][3].label == 3
    assert data.sources["validation"] == "cifar-10/train.parquet, held out"
    assert (data.num_labels, data.metrics, data.label_names[3]) == (10, ("accuracy",), "cat")
    assert data.fingerprint == task.load().fingerprint


def test_batches_hold_gray_values_without_padding(tmp_path: Path) -> None:
    task = LraImage(root=str(write_parquet(tmp_path / "cifar-10")), max_validation_rows=4)
    rows = task.load().validation["test"]
    encoder = task.encoder(None, 1024)
    assert isinstance(encoder, Encoder)
    batch = encoder.collate([rows[index] for index in range(4)])
    assert set(batch) == {"input_ids", "labels"}
    assert bytes(batch["input_ids"][1].tolist()) == rows[1].symbols
    assert (encoder.vocab_size, task.max_length, encoder.lengths(rows)) == (256, 1024, [1024] * 4)


def test_the_hub_s_layout_is_read_from_a_local_copy(tmp_path: Path) -> None:
    data = LraImage(hub=str(write_parquet(tmp_path / "cifar10", column="img"))).load()
    assert data.available == {"train": 18, "test": 10, "validation": 2}
    assert data.sources["test"] == "cifar10@test"


@pytest.mark.parametrize(
    ("replaced", "message"),
    [
        ({"label": 10}, "label must be from 0 to 9, got 10"),
        ({"jpeg": b"no image"}, "image does not decode (not an image file of a known format)"),
        ({"jpeg": picture(0, (33, 32))}, "image must be 32x32, got 33x32"),
    ],
)
def test_a_bad_row_is_refused_with_its_split_row_and_file(
    tmp_path: Path, replaced: dict[str, Any], message: str
) -> None:
    task = LraImage(root=str(write_parquet(tmp_path / "cifar-10", **replaced)))
    with pytest.raises(ValueError, match=f"^{re.escape(f'train row 2 (n/2.png): {message}')}$"):
        task.load()


def test_a_folder_without_a_file_is_refused(tmp_path: Path) -> None:
    root = write_parquet(tmp_path / "cifar-10")
    (root / "test.parquet").unlink()
    with pytest.raises(ValueError, match=r"^root must hold train\.parquet and test\.parquet, got .* without test"):
        LraImage(root=str(root)).check()


@pytest.mark.skipif(not SHARED.is_dir(), reason="cifar-10 is not in ../shared/data")
def test_real_images_become_what_pillow_calls_gray() -> None:
    whole = open_local({"test": SHARED / "test.parquet"})["test"]
    table = ImageTable(whole.rows.select(range(50)), whole.source)
    for row, stored in zip(read_gray(table, "test"), table.rows, strict=True):
        gray = np.asarray(Image.open(io.BytesIO(stored["jpeg"])).convert("L"), dtype=int)
        assert abs(np.frombuffer(row.symbols, dtype=np.uint8) - gray.ravel()).max() <= 1
        assert row.label == stored["label"]


# The stand-in.


def test_digits_are_the_rows_of_the_image_task_pixel_by_pixel() -> None:
    task = DigitsPixels()
    assert isinstance(task, Task)
    task.check()
    data, images = task.load(), Digits().load()
    assert (len(data.train), len(data.validation["validation"])) == (1297, 500)
    assert [row.label for row in data.train] == [row.label for row in images.train]
    ink = np.stack([np.frombuffer(row.symbols, dtype=np.uint8) for row in data.train])
    assert (ink.shape, ink.min(), ink.max()) == ((1297, 64), 0, 16)
    pixels = np.stack([row.image for row in images.train]).reshape(1297, 64)
    np.testing.assert_array_equal((ink * (255 / 16)).round(), pixels)
    assert (data.name, data.num_labels, data.metrics) == ("digits_pixels", 10, ("accuracy",))
    assert data.available == {"train": 1297, "validation": 500}
    assert data.fingerprint == "2e8a1a19c859a95293492c2510fd4c9c560ba6c953a1f77350b9310ef0d984ce"


def test_digits_become_batches_of_64_positions() -> None:
    task = DigitsPixels(max_train_rows=5, max_validation_rows=3)
    rows = task.load().train
    encoder = task.encoder(None, task.max_length)
    batch = encoder.collate(encoder.encode(rows))
    assert {name: tuple(value.shape) for name, value in batch.items()} == {"input_ids": (5, 64), "labels": (5,)}
    assert (encoder.vocab_size, encoder.lengths(rows)) == (17, [64] * 5)
    assert encoder.position_names(rows[0])[7:9] == ["0,7", "1,0"]
