"""Text files line by line, plain or gzipped."""

import gzip
import zlib
from collections.abc import Iterator
from pathlib import Path


def read_lines(path: Path) -> Iterator[tuple[str, str]]:
    """Lines of a UTF-8 file with their line ends, after `file:line` for messages; gzipped if its name ends in `.gz`.

    Raises:
        ValueError: if the file is unreadable, with the line where one is no UTF-8.
    """
    opener = gzip.open if path.suffix == ".gz" else open
    place = str(path)
    try:
        # Bytes, so that the line of a wrong one is known; and of bytes only "\n" ends a line, where texts may hold
        # other characters that Python counts as line ends.
        with opener(path, "rb") as lines:
            for number, line in enumerate(lines, start=1):
                place = f"{path}:{number}"
                yield place, line.decode("utf-8-sig" if number == 1 else "utf-8")
    except UnicodeDecodeError as error:
        raise ValueError(f"{place} must be a readable UTF-8 file, got {type(error).__name__}: {error}") from error
    except (OSError, EOFError, zlib.error) as error:
        raise ValueError(f"{path} must be a readable UTF-8 file, got {type(error).__name__}: {error}") from error
