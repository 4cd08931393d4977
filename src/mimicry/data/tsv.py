"""Reading of tab-separated files: a row that does not fit is an error that names file and line, unless asked for."""

from collections.abc import Iterator, Sequence
from pathlib import Path

from mimicry.data.lines import read_lines


def read_tsv(
    path: Path,
    wanted: Sequence[str],
    columns: Sequence[str] | None = None,
    left_out: list[str] | None = None,
) -> Iterator[tuple[str, dict[str, str]]]:
    """Read a UTF-8 file, gzipped if its name ends in `.gz`, with a byte-order mark or CRLF line ends or neither.

    Quotation marks are text: the sentences in these files hold unpaired ones.

    Args:
        path: the file.
        wanted: columns that must be there.
        columns: names of all columns, for a file without a header line.
        left_out: rows of another width are left out, and this is told `file:line` of each; None refuses them.

    Yields:
        `file:line` for error messages, and the row by column name.

    Raises:
        ValueError: if the file is unreadable or empty, has not each wanted column once, or has a row of another
            width that is not left out.
    """
    rows = _split_lines(path)
    if columns is None:
        _, columns = next(rows, (None, ()))
        if not columns:
            raise ValueError(f"{path} must have a header line and rows, got an empty file")
        for column in wanted:
            if column not in columns:
                raise ValueError(f"{path}:1: header must have the column {column!r}, got {', '.join(columns)}")
            if columns.count(column) > 1:
                raise ValueError(f"{path}:1: header must have the column {column!r} once, got {', '.join(columns)}")
    count = 0
    for place, values in rows:
        if len(values) != len(columns):
            if left_out is not None:
                left_out.append(place)
                continue
            raise ValueError(f"{place}: row must have {len(columns)} columns, got {len(values)}")
        yield place, dict(zip(columns, values, strict=True))
        count += 1
    if count == 0:
        raise ValueError(f"{path} must have at least one row, got 0")


def _split_lines(path: Path) -> Iterator[tuple[str, list[str]]]:
    for place, line in read_lines(path):
        yield place, line.rstrip("\r\n").split("\t")
