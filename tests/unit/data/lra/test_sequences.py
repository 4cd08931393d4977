import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from mimicry.data.lra.encoder import SequenceEncoder
from mimicry.data.lra.sequences import SequenceExample, SequenceFormat, SequenceRows, fingerprint_rows
from mimicry.data.lra.store import read_rows, stored, usable, write_rows

ROWS = [SequenceExample(bytes([index] * (index + 1)), index % 3, None) for index in range(5)]
FORMAT = SequenceFormat(("a", "b", "c"), padded=True, cut=True)


# Rows on disk.


def test_rows_come_back_from_disk_as_they_were(tmp_path: Path) -> None:
    pairs = [SequenceExample(b"\x00\xff", 1, b""), SequenceExample(b"ab", 0, b"c")]
    write_rows(tmp_path / "a.arrow", ROWS)
    write_rows(tmp_path / "b.arrow", pairs)
    table = read_rows([tmp_path / "a.arrow", tmp_path / "b.arrow"])
    rows = SequenceRows(table, range(7))
    assert list(rows) == ROWS + pairs
    assert list(rows[4:6]) == [ROWS[4], pairs[0]]
    assert rows[-1] == pairs[1]
    assert usable(table) == [0, 1, 2, 3, 4, 6]


def test_rows_are_made_once(tmp_path: Path) -> None:
    path = tmp_path / "rows.arrow"
    assert len(stored(path, lambda: ROWS, "Reading")) == 5
    assert len(stored(path, lambda: pytest.fail("made again"), "Reading")) == 5


def test_an_interrupted_write_leaves_nothing_behind(tmp_path: Path) -> None:
    def interrupted() -> object:
        yield from ROWS
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        stored(tmp_path / "rows.arrow", interrupted, "Reading")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("damage", [lambda data: data[:-20], lambda data: b"", lambda data: b"no Arrow file"])
def test_a_damaged_file_is_refused_by_name(tmp_path: Path, damage: Callable[[bytes], bytes]) -> None:
    path = tmp_path / "rows.arrow"
    write_rows(path, ROWS)
    path.write_bytes(damage(path.read_bytes()))
    with pytest.raises(ValueError, match=r"rows\.arrow must be a whole Arrow file \(delete it, ") as caught:
        stored(path, lambda: ROWS, "Reading")
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "changed",
    [
        {"train": ROWS[1:]},
        {"train": [*ROWS[1:], ROWS[0]]},
        {"test": ROWS},
        {"train": [SequenceExample(b"\x01", 0), *ROWS[1:]]},
        {"train": [SequenceExample(b"\x00", 1), *ROWS[1:]]},
        {"train": [SequenceExample(b"\x00", 0, b""), *ROWS[1:]]},
        {"train": ROWS[:2], "test": ROWS[2:]},
    ],
)
def test_the_fingerprint_changes_with_any_row_order_or_split(changed: dict[str, list[SequenceExample]]) -> None:
    assert fingerprint_rows({"train": ROWS}) == fingerprint_rows({"train": tuple(ROWS)})
    assert fingerprint_rows(changed) != fingerprint_rows({"train": ROWS})


# Batches.


def test_bad_arguments_of_the_encoder_are_refused() -> None:
    with pytest.raises(ValueError, match=r"^max_length must be >= 1, got 0$"):
        SequenceEncoder(FORMAT, 2, 0)
    with pytest.raises(ValueError, match=r"^examples must not be empty, got 0$"):
        SequenceEncoder(FORMAT, 2, 1).encode([])


def test_a_row_is_cut_only_where_the_format_says_so() -> None:
    assert SequenceEncoder(FORMAT, 2, 3).lengths(SequenceEncoder(FORMAT, 2, 3).encode(ROWS)) == [1, 2, 3, 3, 3]
    whole = SequenceFormat(("a", "b", "c"), padded=True, cut=False)
    with pytest.raises(ValueError, match=r"^max_length must be >= 5, the longest row, got 3$"):
        SequenceEncoder(whole, 2, 3).encode(ROWS)


def test_the_vocabulary_counts_padding() -> None:
    assert (FORMAT.vocab_size, SequenceFormat(("a", "b"), padded=False, cut=False).vocab_size) == (4, 2)


def test_tasks_are_checked_without_importing_a_slow_library() -> None:
    tasks = ("listops", "texts", "retrieval", "pixels", "pathfinder", "digits_pixels")
    modules = f"import {', '.join(f'mimicry.data.lra.{task}' for task in tasks)}, sys; print(*sys.modules)"
    loaded = subprocess.run([sys.executable, "-c", modules], capture_output=True, text=True, check=True).stdout.split()
    assert not {"torch", "lightning", "transformers", "datasets", "pyarrow", "sklearn", "PIL"} & set(loaded)
