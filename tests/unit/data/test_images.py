import io
import pickle
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import datasets
import numpy as np
import pytest
import torch
from PIL import Image
from transformers import ViTImageProcessorPil

from mimicry.data.batches import Encoder, TaskBatches
from mimicry.data.images import ImageTask
from mimicry.data.task import ImageExample, Task, draw_indices

SHARED = Path(__file__).resolve().parents[4] / "shared/data"
CLASSES = ("cat", "dog")
ROW = ImageExample(b"", 0)


@pytest.fixture(autouse=True)
def _cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")


def picture(seed: int, mode: str = "RGB", size: tuple[int, int] = (20, 16)) -> Image.Image:
    pixels = np.random.default_rng(seed).integers(0, 256, (size[1], size[0], 3), dtype=np.uint8)
    return Image.fromarray(pixels).convert(mode)


def encoded(image: Image.Image, file_format: str = "JPEG") -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, file_format)
    return buffer.getvalue()


def write_folders(root: Path, train: int = 3, val: int = 2) -> Path:
    """Class folders with so many images per class."""
    for split, count in (("train", train), ("val", val)):
        for label, name in enumerate(CLASSES):
            (root / split / name).mkdir(parents=True)
            for number in range(count):
                picture(100 * label + number).save(root / split / name / f"{number}.jpg")
    return root


def write_parquet(root: Path, file: str = "train", image: str = "jpeg", **columns: list[Any]) -> Path:
    """Four rows of alternating class, or the columns given."""
    root.mkdir(parents=True, exist_ok=True)
    rows = {"file": [f"n/{i}.jpg" for i in range(4)], "label": [0, 1, 0, 1]}
    rows[image] = [encoded(picture(i + (file != "train") * 50)) for i in range(4)]
    datasets.Dataset.from_dict(rows | columns).to_parquet(root / f"{file}.parquet")
    return root


def parquet_task(root: Path, num_labels: int = 2, **options: Any) -> ImageTask:
    if not (root / "val.parquet").exists():
        write_parquet(root, "val")
    return ImageTask("pets", num_labels, root=str(root), **options)


def folder_task(root: Path, **options: Any) -> ImageTask:
    return ImageTask("pets", root=str(root), **options)


def processor(size: int = 8, channels: int = 3) -> ViTImageProcessorPil:
    half = [0.5] * channels
    return ViTImageProcessorPil(size={"height": size, "width": size}, image_mean=half, image_std=half)


def refused(task: ImageTask, message: str, step: Callable[[ImageTask], object] = ImageTask.load) -> None:
    with pytest.raises(ValueError, match=message) as error:
        step(task)
    assert "\n" not in str(error.value)


# What is read.


def test_class_folders_become_rows_in_sorted_order_with_the_names_as_classes(tmp_path: Path) -> None:
    root = write_folders(tmp_path / "pets")
    (root / "train/dog/notes.txt").write_text("no image")
    (root / "train/.cache").mkdir()
    (root / "train/dog/more").mkdir()
    picture(9).save(root / "train/dog/more/9.PNG")
    task = folder_task(root)
    assert isinstance(task, Task)
    task.check()
    data = task.load()
    assert (data.name, data.num_labels, data.metrics, data.label_names) == ("pets", 2, ("top1",), CLASSES)
    assert [row.label for row in data.train] == [0, 0, 0, 1, 1, 1, 1]
    assert data.train[1] == ImageExample((root / "train/cat/1.jpg").read_bytes(), 0)
    assert data.train[6].image == (root / "train/dog/more/9.PNG").read_bytes()
    assert [row.label for row in data.validation["validation"]] == [0, 0, 1, 1]
    assert data.sources == {"train": "pets/train", "validation": "pets/val"}
    assert data.available == {"train": 7, "validation": 4}


def test_parquet_rows_keep_their_order_and_bytes(tmp_path: Path) -> None:
    data = parquet_task(write_parquet(tmp_path / "pets")).load()
    assert [row.label for row in data.train] == [0, 1, 0, 1]
    assert data.train[2].image == encoded(picture(2))
    assert data.validation["validation"][0].image == encoded(picture(50))
    assert data.sources == {"train": "pets/train.parquet", "validation": "pets/val.parquet"}
    assert data.label_names == ()


@pytest.mark.parametrize(
    ("file", "text"), [("labels.txt", "a\nb\n"), ("labels.tsv", "label\tid\tname\n0\tx\ta\n1\ty\tb\n")]
)
def test_classes_of_parquet_files_are_counted_and_named_by_a_file_beside_them(
    tmp_path: Path, file: str, text: str
) -> None:
    root = write_parquet(tmp_path / "pets")
    (root / file).write_text(text)
    task = parquet_task(root, num_labels=None)
    assert (task.num_labels, task.load().label_names) == (2, ("a", "b"))


def test_parquet_of_the_datasets_library_brings_images_as_structs_and_class_names(tmp_path: Path) -> None:
    features = datasets.Features({"image": datasets.Image(), "label": datasets.ClassLabel(names=list(CLASSES))})
    for split in ("train", "test"):
        rows = {"image": [{"bytes": encoded(picture(i)), "path": f"{i}.jpg"} for i in range(2)], "label": [1, 0]}
        datasets.Dataset.from_dict(rows, features=features).to_parquet(tmp_path / f"{split}.parquet")
    data = ImageTask("pets", 2, root=str(tmp_path)).load()
    assert (data.label_names, data.sources["validation"]) == (CLASSES, f"{tmp_path.name}/test.parquet")
    assert data.train[1] == ImageExample(encoded(picture(1)), 0)


def test_a_data_set_in_the_hub_s_layout_is_read_by_its_id(tmp_path: Path) -> None:
    write_parquet(tmp_path / "pets" / "data", image="img")
    write_parquet(tmp_path / "pets" / "data", "test", image="img")
    task = ImageTask("pets", 2, hub=str(tmp_path / "pets"), validation="test")
    task.check()
    data = task.load()
    assert data.sources == {"train": "pets@train", "validation": "pets@test"}
    assert data.train[3] == ImageExample(encoded(picture(3)), 1)


def test_an_unreachable_hub_is_one_line_with_a_way_out() -> None:
    task = ImageTask("pets", 2, hub="nobody/nothing")
    with pytest.raises((ValueError, ConnectionError), match=r"'nobody/nothing' \(set task\.root=DIR") as error:
        task.load()
    assert "\n" not in str(error.value)


def test_limits_draw_evenly_and_always_the_same_rows(tmp_path: Path) -> None:
    root = write_folders(tmp_path / "pets", train=20)
    whole = folder_task(root).load()
    data = folder_task(root, max_train_rows=10, max_validation_rows=1).load()
    drawn = [whole.train[i] for i in range(40) if whole.train[i] in list(data.train)]
    assert list(data.train) == drawn
    assert {row.label for row in data.train} == {0, 1}
    assert (len(data.train), len(data.validation["validation"]), data.available["train"]) == (10, 1, 40)
    assert data.fingerprint == folder_task(root, max_train_rows=10, max_validation_rows=1).load().fingerprint


@pytest.mark.parametrize(("num_labels", "metrics"), [(5, ("top1",)), (6, ("top1", "top5"))])
def test_top_5_is_scored_where_it_can_be_missed(num_labels: int, metrics: tuple[str, ...]) -> None:
    assert ImageTask("x", num_labels, hub="a/b").metrics == metrics


# Laziness and the fingerprint.


def test_images_stay_on_disk_until_they_are_asked_for(tmp_path: Path) -> None:
    root = write_folders(tmp_path / "pets")
    task = folder_task(root)
    data = task.load()
    rows = task.encoder(processor(), 5).encode(data.train)
    first = rows[0]
    shutil.rmtree(root / "train")
    assert (len(rows), first.label) == (6, 0)
    with pytest.raises(FileNotFoundError):
        rows[0]


def test_parquet_is_memory_mapped(tmp_path: Path) -> None:
    rows = parquet_task(write_parquet(tmp_path / "pets")).load().train
    assert len(rows.table.cache_files) == 1
    assert len(pickle.dumps(rows)) < 4000


def test_the_fingerprint_changes_with_a_byte_a_label_or_the_order(tmp_path: Path) -> None:
    images = [encoded(picture(i), "BMP") for i in range(4)]
    dot = [*images[:3], images[3][:-1] + bytes([images[3][-1] ^ 1])]
    variants = [
        {"jpeg": images},
        {"jpeg": dot},
        {"jpeg": images, "label": [0, 1, 1, 1]},
        {"jpeg": [images[2], images[1], images[0], images[3]]},
    ]
    found = [
        parquet_task(write_parquet(tmp_path / str(index), **columns)).load().fingerprint
        for index, columns in enumerate(variants)
    ]
    assert len(set(found)) == len(variants)
    assert parquet_task(write_parquet(tmp_path / "again", **variants[0])).load().fingerprint == found[0]


# What is refused, with its place.


@pytest.mark.parametrize("damage", ["truncated", "empty", "text"])
def test_an_image_that_does_not_decode_is_named_with_its_split_row_and_file(tmp_path: Path, damage: str) -> None:
    root = write_folders(tmp_path / "pets")
    file = root / "val/dog/1.jpg"
    whole = file.read_bytes()
    file.write_bytes({"truncated": whole[: len(whole) // 2], "empty": b"", "text": b"hello"}[damage])
    refused(folder_task(root), r"^validation row 3 \(dog/1\.jpg\): image does not decode \(.+\)$")


def test_a_parquet_row_without_an_image_is_named(tmp_path: Path) -> None:
    image = encoded(picture(0))
    root = write_parquet(tmp_path / "pets", jpeg=[image, image, None, image])
    refused(parquet_task(root), r"^train row 2 \(n/2\.jpg\): image does not decode \(must be the bytes of a file")


def test_pixels_that_would_be_clipped_to_8_bits_are_refused(tmp_path: Path) -> None:
    root = write_folders(tmp_path / "pets")
    Image.new("I;16", (4, 4), 1000).save(root / "train/cat/3.png")
    refused(folder_task(root), r"^train row 3 \(cat/3\.png\): .*8 bits per channel, got mode I;16")


@pytest.mark.parametrize("label", [2, -1, None])
def test_a_label_out_of_range_is_named(tmp_path: Path, label: int | None) -> None:
    root = write_parquet(tmp_path / "pets", label=[0, label, 0, 1])
    refused(parquet_task(root), rf"^train row 1 \(n/1\.jpg\): label must be from 0 to 1, got {label}$")


def test_labels_that_are_names_are_refused(tmp_path: Path) -> None:
    root = write_parquet(tmp_path / "pets", label=["cat", "dog", "cat", "dog"])
    refused(parquet_task(root), r"label must be from 0 to 1, got 'cat'")


def test_the_row_of_a_drawn_subset_is_named_by_its_place_in_the_file(tmp_path: Path) -> None:
    root = write_parquet(tmp_path / "pets", label=[9, 9, 9, 9])
    task = parquet_task(root, max_train_rows=1)
    (drawn,) = draw_indices(4, 1)
    refused(task, rf"^train row {drawn} \(n/{drawn}\.jpg\)")


def test_splits_with_other_classes_are_refused_before_anything_is_read(tmp_path: Path) -> None:
    root = write_folders(tmp_path / "pets")
    shutil.move(root / "val/dog", root / "val/fox")
    refused(folder_task(root), r"same class folders, but .*val lacks 1: dog$", ImageTask.check)


def test_a_class_without_images_is_refused(tmp_path: Path) -> None:
    root = write_folders(tmp_path / "pets")
    for file in (root / "val/dog").iterdir():
        file.unlink()
    refused(folder_task(root), r"val/dog must hold at least one image")


def test_the_number_of_classes_must_be_that_of_the_folders(tmp_path: Path) -> None:
    root = write_folders(tmp_path / "pets")
    refused(folder_task(root, num_labels=3), r"^num_labels must be 2, the classes of .*pets, got 3$", ImageTask.check)


@pytest.mark.parametrize("num_labels", [None, 2])
def test_a_single_class_folder_is_refused(tmp_path: Path, num_labels: int | None) -> None:
    root = write_folders(tmp_path / "pets")
    for split in ("train", "val"):
        shutil.rmtree(root / split / "dog")
    message = r"^root must hold at least 2 classes, got 1 in .*pets: cat$"
    refused(folder_task(root, num_labels=num_labels), message, ImageTask.check)


def test_a_single_named_class_of_parquet_files_is_refused(tmp_path: Path) -> None:
    root = write_parquet(tmp_path / "pets", label=[0] * 4)
    (root / "labels.txt").write_text("cat\n")
    message = r"^root must hold at least 2 classes, got 1 in .*pets: cat$"
    refused(parquet_task(root, num_labels=None), message, ImageTask.check)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({}, r"root must be a folder .*set task\.root=DIR.*, got null, and no hub either"),
        ({"root": "/no/such/folder"}, "root must be an existing folder, got /no/such/folder"),
        ({"hub": "a/b"}, "num_labels must be given where no class folders or label names can be counted, got null"),
    ],
)
def test_a_task_without_anything_to_read_is_refused_at_once(options: dict[str, str], message: str) -> None:
    refused(ImageTask("pets", **options), message, ImageTask.check)


def test_missing_splits_are_refused_with_what_there_is(tmp_path: Path) -> None:
    root = write_parquet(tmp_path / "pets", "train")
    shutil.move(root / "train.parquet", root / "all.parquet")
    wanted = r"^train must be a folder or Parquet file in .*pets, got no train\[\.parquet\]; found all\.parquet: choose"
    with pytest.raises(ValueError, match=wanted):
        folder_task(root)
    task = ImageTask("pets", 2, root=str(root), train="all")
    refused(task, r"^validation must be .* got no val\[\.parquet\] or .*; found all\.parquet", ImageTask.check)
    task = ImageTask("pets", 2, root=str(root), train="all", validation="all.parquet")
    refused(task, r"must be two folders or two Parquet files, got all\.parquet and all\.parquet$", ImageTask.check)


def test_a_file_that_is_no_parquet_is_refused(tmp_path: Path) -> None:
    root = write_parquet(tmp_path / "pets")
    (root / "val.parquet").write_text("hello")
    refused(parquet_task(root), r"^cannot read .*val\.parquet: ")


def test_columns_that_cannot_be_told_are_refused_and_can_be_named(tmp_path: Path) -> None:
    root = write_parquet(write_parquet(tmp_path / "pets", image="photo"), "val", image="photo").parent / "pets"
    refused(
        parquet_task(root), r"^image_column must be one of the columns of pets/train\.parquet \(file, label, photo\)"
    )
    refused(parquet_task(root, image_column="x"), r"got x$")
    assert len(parquet_task(root, image_column="photo").load().train) == 4


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"num_labels": 1}, "num_labels must be >= 2 or null, got 1"),
        ({"workers": -1}, "workers must be >= 0, got -1"),
        ({"max_train_rows": 0}, "max_train_rows must be >= 1 or null, got 0"),
    ],
)
def test_an_option_out_of_range_is_refused(options: dict[str, int], message: str) -> None:
    with pytest.raises(ValueError, match=f"^{re.escape(message)}$"):
        ImageTask("pets", **{"hub": "a/b"} | options)


# Batches.


def test_batches_hold_what_the_model_s_own_processor_makes(tmp_path: Path) -> None:
    task = folder_task(write_folders(tmp_path / "pets"))
    rows = task.load().train
    encoder = task.encoder(processor(), 5)
    assert isinstance(encoder, Encoder)
    assert encoder.lengths(rows) == [5] * 6
    batch = encoder.collate([rows[0], rows[4]])
    assert (batch["pixel_values"].shape, batch["pixel_values"].dtype) == ((2, 3, 8, 8), torch.float32)
    assert batch["labels"].tolist() == [0, 1]
    image = Image.open(io.BytesIO(rows[4].image)).resize((8, 8), Image.Resampling.BILINEAR)
    expected = torch.tensor(np.array(image)).permute(2, 0, 1) / 127.5 - 1
    torch.testing.assert_close(batch["pixel_values"][1], expected, atol=1e-6, rtol=0)


@pytest.mark.parametrize("mode", ["L", "P", "1", "CMYK", "RGBA", "LA"])
def test_every_image_gets_the_channels_of_the_model(mode: str) -> None:
    file_format = "TIFF" if mode == "CMYK" else "PNG"
    row = ImageExample(encoded(picture(0, mode), file_format), 0)
    for channels in (3, 1):
        encoder = ImageTask("x", 2, hub="a/b").encoder(processor(channels=channels), 5)
        assert encoder.collate([row])["pixel_values"].shape == (1, channels, 8, 8)


def test_an_array_of_pixels_is_an_image_too() -> None:
    encoder = ImageTask("x", 2, hub="a/b").encoder(processor(), 5)
    gray = np.full((8, 8), 255, dtype=np.uint8)
    assert (encoder.collate([ImageExample(gray, 1)])["pixel_values"] == 1).all()


def test_positions_are_named_by_row_and_column_of_the_patch() -> None:
    task = ImageTask("x", 2, hub="a/b")
    assert task.encoder(processor(), 5).position_names(ROW) == ["[CLS]", "0,0", "0,1", "1,0", "1,1"]
    assert task.encoder(processor(), 6).position_names(ROW)[:3] == ["[CLS]", "[DIST]", "0,0"]
    wide = ViTImageProcessorPil(size={"height": 4, "width": 8})
    assert task.encoder(wide, 9).position_names(ROW)[4:6] == ["0,3", "1,0"]
    with pytest.raises(ValueError, match=r"tokens must be one or two more than the patches of a 8x8 image, got 8"):
        task.encoder(processor(), 8)


def test_worker_processes_make_the_same_batches(tmp_path: Path) -> None:
    task = folder_task(write_folders(tmp_path / "pets"))
    rows = task.load().train

    def batches(workers: int) -> list[dict[str, torch.Tensor]]:
        encoder = folder_task(task.root, workers=workers).encoder(processor(), 5)
        assert pickle.loads(pickle.dumps(encoder)).lengths(rows) == [5] * 6
        split = {"validation": rows}
        return list(TaskBatches(encoder, rows, rows, [], split, seed=0).training("teach", batch_size=4))

    for ours, theirs in zip(batches(2), batches(0), strict=True):
        assert torch.equal(ours["pixel_values"], theirs["pixel_values"])
        assert torch.equal(ours["labels"], theirs["labels"])


# Real data.


@pytest.mark.skipif(not (SHARED / "tiny-imagenet-20").is_dir(), reason="tiny-imagenet-20 is not in ../shared/data")
def test_tiny_imagenet_is_read_whole() -> None:
    task = ImageTask("image_folder", root=str(SHARED / "tiny-imagenet-20"))
    task.check()
    data = task.load()
    assert (data.num_labels, data.metrics, data.label_names[:2]) == (20, ("top1", "top5"), ("goldfish", "bullfrog"))
    assert data.available == {"train": 6000, "validation": 1000}
    assert data.fingerprint == "250ffbc8121607e071f08db708f0f76164aeb7dcd682de9cba919bbb4d46d9fc"
    batch = task.encoder(processor(size=16), 17).collate([data.train[i] for i in range(64)])
    assert batch["pixel_values"].shape == (64, 3, 16, 16)


@pytest.mark.skipif(not (SHARED / "cifar-10").is_dir(), reason="cifar-10 is not in ../shared/data")
def test_cifar_10_is_read_in_part() -> None:
    data = ImageTask("image_folder", root=str(SHARED / "cifar-10"), max_train_rows=100, max_validation_rows=50).load()
    assert (data.num_labels, data.label_names[3], data.sources["validation"]) == (10, "cat", "cifar-10/test.parquet")
    assert data.available == {"train": 50000, "validation": 10000}
