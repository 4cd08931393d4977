import gzip
import re
from pathlib import Path

import pytest

from mimicry.data.tsv import read_tsv


def rows_of(path: Path, **options: tuple[str, ...]) -> list[dict[str, str]]:
    return [row for _, row in read_tsv(path, wanted=("a", "b"), **options)]


@pytest.mark.parametrize(
    "content",
    [b"a\tb\n1\t2\n", b"a\tb\r\n1\t2\r\n", b"a\tb\n1\t2", b"\xef\xbb\xbfa\tb\n1\t2\n"],
    ids=["plain", "crlf", "no final line end", "byte-order mark"],
)
@pytest.mark.parametrize("packed", [False, True], ids=["plain", "gz"])
def test_every_usual_layout_reads_the_same(tmp_path: Path, content: bytes, packed: bool) -> None:
    path = tmp_path / ("x.tsv.gz" if packed else "x.tsv")
    path.write_bytes(gzip.compress(content) if packed else content)
    assert rows_of(path) == [{"a": "1", "b": "2"}]


def test_quotes_unicode_line_ends_and_very_long_fields_are_text(tmp_path: Path) -> None:
    text = '"un\u2028paired\x85\r quote' + "x" * 200_000
    path = tmp_path / "x.tsv"
    path.write_bytes(f"a\tb\n{text}\t2\n3\t4\n".encode())
    assert rows_of(path) == [{"a": text, "b": "2"}, {"a": "3", "b": "4"}]


def test_a_file_without_a_header_takes_the_columns_given(tmp_path: Path) -> None:
    path = tmp_path / "x.tsv"
    path.write_text("1\t2\n")
    assert list(read_tsv(path, ("a", "b"), columns=("a", "b"))) == [(f"{path}:1", {"a": "1", "b": "2"})]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("", " must have a header line and rows, got an empty file"),
        ("a\tb\n", " must have at least one row, got 0"),
        ("a\tc\n1\t2\n", ":1: header must have the column 'b', got a, c"),
        ("a\tb\tb\n1\t2\t3\n", ":1: header must have the column 'b' once, got a, b, b"),
        ("a\tb\n1\t2\n1\n", ":3: row must have 2 columns, got 1"),
        ("a\tb\n1\t2\t3\n", ":2: row must have 2 columns, got 3"),
        ("a\tb\n\n1\t2\n", ":2: row must have 2 columns, got 1"),
    ],
)
def test_a_malformed_file_is_refused_with_file_and_line(tmp_path: Path, content: str, message: str) -> None:
    path = tmp_path / "x.tsv"
    path.write_text(content)
    with pytest.raises(ValueError, match=f"^{re.escape(str(path) + message)}$"):
        rows_of(path)


def test_rows_of_another_width_are_left_out_and_told_where_that_is_asked_for(tmp_path: Path) -> None:
    path = tmp_path / "x.tsv"
    path.write_text("a\tb\n1\n1\t2\n\n1\t2\t3\n3\t4\n")
    left_out: list[str] = []
    rows = [row for _, row in read_tsv(path, ("a", "b"), left_out=left_out)]
    assert rows == [{"a": "1", "b": "2"}, {"a": "3", "b": "4"}]
    assert left_out == [f"{path}:{line}" for line in (2, 4, 5)]


def test_a_file_of_which_all_rows_are_left_out_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "x.tsv"
    path.write_text("a\tb\n1\n")
    with pytest.raises(ValueError, match=r"must have at least one row, got 0$"):
        list(read_tsv(path, ("a", "b"), left_out=[]))


def test_a_column_that_is_not_wanted_may_stand_twice(tmp_path: Path) -> None:
    path = tmp_path / "x.tsv"
    path.write_text("a\tb\tc\tc\n1\t2\t3\t4\n")
    assert [row["b"] for row in rows_of(path)] == ["2"]


def test_an_empty_file_without_a_header_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "x.tsv"
    path.touch()
    with pytest.raises(ValueError, match="must have at least one row, got 0"):
        rows_of(path, columns=("a", "b"))


@pytest.mark.parametrize(
    ("name", "content", "reason"),
    [
        ("x.tsv", b"a\tb\n\xff\t2\n", "UnicodeDecodeError"),
        ("x.tsv.gz", b"a\tb\n1\t2\n", "BadGzipFile"),
        ("x.tsv.gz", gzip.compress(b"a\tb\n1\t2\n", mtime=0)[:-12], "EOFError"),
    ],
)
def test_an_unreadable_file_is_refused_in_one_line(tmp_path: Path, name: str, content: bytes, reason: str) -> None:
    path = tmp_path / name
    path.write_bytes(content)
    with pytest.raises(ValueError, match=rf"x\.tsv\S* must be a readable UTF-8 file, got {reason}: ") as caught:
        rows_of(path)
    assert "\n" not in str(caught.value)
