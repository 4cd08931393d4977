"""Text files line by line, plain or gzipped."""

import gzip
import zlib
from collections.abc import Iterator
from pathlib import Path


def read_lines(path: Path) -> Iterator[tuple[str, str]]:
    """Lines of a UTF-8 file with their line ends, after `file:line` for messages; gzipped if its name ends in `.gz`.

    Raises:
        ValueError: if the file is unreadable.
    """
    opener = gzip.open if path.suffix == ".gz" else open
    try:
        # Only "\n" ends a line: texts may hold other characters that Python counts as line ends.
        with opener(path, "rt", encoding="utf-8-sig", newline="\n") as lines:
            for number, line in enumerate(lines, start=1):
                yield f"{path}:{number}", line
    except (OSError, EOFError, zlib.error, UnicodeDecodeError) as error:
        raise ValueError(f"{path} must be a readable UTF-8 file, got {type(error).__name__}: {error}") from error
