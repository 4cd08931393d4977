"""Files of the Long Range Arena release, wherever the user keeps them."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from mimicry.data.lra.sequences import SCORED, SplitRows
from mimicry.data.lra.store import usable


def find_files(root: Path, stems: Mapping[str, str], suffix: str) -> tuple[dict[str, Path], tuple[str, ...]]:
    """The file of each split, and what is missing.

    Args:
        root: folder that holds them.
        stems: name of each split's file without `suffix`.
        suffix: such as `.tsv`; the file may also be gzipped, with `.gz` after it.

    Raises:
        ValueError: if there is no folder, no file to train on, or none to score on.
    """
    if not root.is_dir():
        raise ValueError(f"root must be an existing folder, got {root}")
    files = {}
    for split, stem in stems.items():
        candidates = (root / f"{stem}{suffix}", root / f"{stem}{suffix}.gz")
        if found := next((path for path in candidates if path.is_file()), None):
            files[split] = found
    lacks = {split: f"{stem}{suffix}" for split, stem in stems.items() if split not in files}
    if "train" in lacks or not any(split in files for split in SCORED):
        names = " or ".join(lacks[split] for split in stems if split in lacks)
        raise ValueError(f"root must hold a file to train on and one to score on, got {root} without {names}[.gz]")
    return files, tuple(f"{split} (no {name} in the folder)" for split, name in lacks.items())


def whole_split(table: Any, source: str) -> tuple[SplitRows, tuple[str, ...]]:
    """All rows of a table as a split, and a note on those that are left out for being empty."""
    indices = usable(table)
    empty = len(table) - len(indices)
    note = (f"{empty} of {len(table)} rows of {source} (empty)",) if empty else ()
    return SplitRows(table, indices, source, len(indices)), note
