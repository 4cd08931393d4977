"""Which file of a folder holds which split of a language task."""

from collections.abc import Mapping, Sequence
from pathlib import Path


def find_files(
    root: Path, stems: Mapping[str, Sequence[str]], suffixes: Sequence[str], chosen: Mapping[str, str | None]
) -> dict[str, Path]:
    """The file of each split.

    Args:
        root: folder to look in.
        stems: the file names of each split without suffix, the likeliest first.
        suffixes: the endings to look for.
        chosen: a file, relative to `root` or absolute, by split, that is read instead; None looks for the stems. Splits
            that are in it have an option to choose one.

    Raises:
        ValueError: if there is no such folder or file, or two splits would read the same one.
    """
    if not root.is_dir():
        raise ValueError(f"root must be a folder, got {root}")
    files = {split: _find(root, split, stems, suffixes, chosen) for split in stems}
    if len({path.resolve() for path in files.values()}) < len(files):
        uses = ", ".join(f"{path.name} for {split}" for split, path in files.items())
        raise ValueError(f"each split must have a file of its own, got {uses}")
    return files


def _find(
    root: Path,
    split: str,
    stems: Mapping[str, Sequence[str]],
    suffixes: Sequence[str],
    chosen: Mapping[str, str | None],
) -> Path:
    file = chosen.get(split)
    names = [file] if file is not None else [stem + suffix for stem in stems[split] for suffix in suffixes]
    if found := next((root / name for name in names if (root / name).is_file()), None):
        return found
    # The other splits' own files are no candidates: training on one would leak the rows to score on.
    others = {stem + suffix for other in stems if other != split for stem in stems[other] for suffix in suffixes}
    there = sorted(path.name for path in root.iterdir() if path.name.endswith(tuple(suffixes)))
    there = [name for name in there if name not in others]
    found_names = f"found {', '.join(there)}" if there else "found no other file"
    choice = f"; choose one with task.{split}_file=FILE" if split in chosen else ""
    raise ValueError(f"{split} must have a file in {root}, got no {' or '.join(names)}; {found_names}{choice}")
