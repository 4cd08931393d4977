"""Images on disk: one folder per class, or Parquet with the names of its classes beside it."""

import os
from collections.abc import Sequence
from pathlib import Path

from mimicry.data.tsv import read_tsv

# What other people's files carry that is an image; anything else beside them is left alone.
SUFFIXES = (".jpg", ".jpeg", ".png", ".bmp", ".gif", ".webp", ".ppm", ".pgm", ".tif", ".tiff")
PARQUET = ".parquet"


def find_split(root: Path, option: str, names: Sequence[str]) -> Path:
    """The first of `names` that is a folder or a Parquet file in `root`; `option` is blamed when none is.

    Raises:
        ValueError: if there is neither.
    """
    if not root.is_dir():
        raise ValueError(f"root must be an existing folder, got {root}")
    for name in names:
        if (root / name).is_dir():
            return root / name
        file = root / (name.removesuffix(PARQUET) + PARQUET)
        if file.is_file():
            return file
    wanted = " or ".join(f"{name.removesuffix(PARQUET)}[{PARQUET}]" for name in names)
    found = sorted(path.name for path in root.iterdir() if path.is_dir() or path.suffix == PARQUET)
    hint = f"found {', '.join(found[:10])}: choose one with task.{option}=NAME" if found else "found neither"
    raise ValueError(f"{option} must be a folder or Parquet file in {root}, got no {wanted}; {hint}")


def class_folders(split: Path) -> tuple[str, ...]:
    """Names of the folders in `split`, sorted: the position of a name is the id of its class.

    Raises:
        ValueError: if there is none.
    """
    with os.scandir(split) as entries:
        names = sorted(entry.name for entry in entries if entry.is_dir() and not entry.name.startswith("."))
    if not names:
        raise ValueError(f"{split} must hold one folder of images per class, got none")
    return tuple(names)


def check_same_classes(train: Path, validation: Path) -> None:
    """Refuse splits whose class folders differ: ids would mean other classes in one than in the other."""
    ours, theirs = set(class_folders(train)), set(class_folders(validation))
    for split, missing in ((validation, ours - theirs), (train, theirs - ours)):
        if missing:
            names = ", ".join(sorted(missing)[:5])
            raise ValueError(f"both splits must have the same class folders, but {split} lacks {len(missing)}: {names}")


def image_files(split: Path) -> tuple[list[str], list[int]]:
    """Every image below the class folders of `split` in sorted order: paths relative to `split`, and class ids.

    Raises:
        ValueError: if a class has no image.
    """
    files: list[str] = []
    labels: list[int] = []
    for label, name in enumerate(class_folders(split)):
        found = sorted(
            Path(folder, file).relative_to(split).as_posix()
            for folder, _, members in os.walk(split / name)
            for file in members
            if file.lower().endswith(SUFFIXES) and not file.startswith(".")
        )
        if not found:
            raise ValueError(f"{split / name} must hold at least one image ({', '.join(SUFFIXES)}), got none")
        files += found
        labels += [label] * len(found)
    return files, labels


def label_names(root: Path) -> tuple[str, ...]:
    """Names of the classes by id: the lines of labels.txt, or `name` by `label` in labels.tsv; empty without either.

    Raises:
        ValueError: if labels.tsv does not number its rows 0, 1, 2, ...
    """
    if (root / "labels.txt").is_file():
        return tuple((root / "labels.txt").read_text(encoding="utf-8").rstrip().splitlines())
    names = []
    if (root / "labels.tsv").is_file():
        for place, row in read_tsv(root / "labels.tsv", wanted=("label", "name")):
            if row["label"] != str(len(names)):
                raise ValueError(f"{place}: label must count from 0, got {row['label']!r} for row {len(names)}")
            names.append(row["name"])
    return tuple(names)
