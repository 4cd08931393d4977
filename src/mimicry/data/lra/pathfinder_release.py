"""Pathfinder pictures as the release keeps them: PNG files, and lists that say which of them are positive.

The folder of a level holds `imgs/<n>/sample_<m>.png` and `metadata/<n>.npy`, one list for each folder of pictures. The
lists of the release are text despite their name, a line for each picture and spaces between its values; the published
generator writes the same values as a numpy array of strings. Of the eleven columns the first, second and fourth count:

    0 folder of the picture, below the level's    imgs/0
    1 its file                                    sample_0.png
    2 its number in the folder                    0
    3 label                                       1: the dots end the same curve
    4 continuity   5 dashes of a long curve   6 dashes of a short one   7 length and   8 thickness of a dash
    9 gap between dashes   10 number of contrasts

Source: Tay et al. 2020 (arXiv 2011.04006) and the generator of Linsley et al. 2018.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from mimicry.data.lra.pathfinder_strokes import SIZE
from mimicry.data.lra.sequences import SequenceExample

# By dashes of a long curve.
LEVELS = {6: "curv_baseline", 9: "curv_contour_length_9", 14: "curv_contour_length_14"}
NUMPY_MAGIC = b"\x93NUMPY"
FOLDER, FILE, LABEL = 0, 1, 3
LABELS = {"0": 0, "1": 1}


@dataclass(frozen=True)
class Entry:
    """One line of a list: where it stands, the picture, and its label."""

    place: str
    path: Path
    label: int


def find_lists(level: Path) -> list[Path]:
    """The lists of a level in the order of their numbers.

    Raises:
        ValueError: if there is none.
    """
    found = list((level / "metadata").glob("*.npy"))
    if not found:
        raise ValueError(f"root must hold {level.name}/metadata/*.npy, got none in {level.parent}")
    return sorted(found, key=lambda path: (len(path.stem), path.stem))


def read_list(path: Path) -> Iterator[Entry]:
    """The lines of one list.

    Raises:
        ValueError: naming file and line, if it cannot be read, a line has too few columns, or a label is not 0 or 1.
    """
    level = path.parent.parent
    for number, columns in enumerate(_lines(path), start=1):
        place = f"{path}:{number}"
        if len(columns) <= LABEL:
            raise ValueError(f"{place}: line must have at least {LABEL + 1} columns, got {len(columns)}")
        if columns[LABEL] not in LABELS:
            raise ValueError(f"{place}: label must be 0 or 1, got {columns[LABEL]!r}")
        yield Entry(place, level / columns[FOLDER] / columns[FILE], LABELS[columns[LABEL]])


def read_pictures(entries: list[Entry]) -> Iterator[SequenceExample]:
    """The pictures row by row; the release has an empty file, which stays an empty sequence.

    Raises:
        ValueError: naming the line of the list, if a picture is missing, does not decode or is not 32x32 gray.
    """
    # Slow to import, and only needed here.
    from mimicry.data.image_rows import UNDECODABLE, open_image

    for entry in entries:
        try:
            data = entry.path.read_bytes()
            picture = open_image(data) if data else None
            pixels = b"" if picture is None else picture.tobytes()
        except UNDECODABLE as error:
            reason = " ".join(str(error).split())
            raise ValueError(f"{entry.place}: {entry.path.name} must be a readable picture ({reason})") from error
        if picture is not None and (picture.mode, picture.size) != ("L", (SIZE, SIZE)):
            shape = f"{picture.width}x{picture.height} of mode {picture.mode}"
            raise ValueError(f"{entry.place}: {entry.path.name} must be {SIZE}x{SIZE} gray, got {shape}")
        yield SequenceExample(pixels, entry.label)


def _lines(path: Path) -> list[list[str]]:
    # Slow to import, and only needed here.
    import numpy as np

    try:
        with path.open("rb") as file:
            is_array = file.read(len(NUMPY_MAGIC)) == NUMPY_MAGIC
        if is_array:
            return [[str(value) for value in row] for row in np.load(path, allow_pickle=False)]
        return [line.split() for line in path.read_text(encoding="utf-8").splitlines()]
    except (OSError, ValueError) as error:
        raise ValueError(f"{path} must be a readable list, got {' '.join(str(error).split())}") from error
