"""Work that only one process may do at a time; the lock of a process that is killed is free at once."""

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from filelock import FileLock, Timeout

from mimicry.ranks import is_main_process

log = logging.getLogger(__name__)


@contextmanager
def held(path: Path, work: str) -> Iterator[None]:
    """Holds the lock on `path` for the block, after waiting for whoever holds it now.

    The further processes of one distributed job work under the lock of its first.

    Args:
        path: an empty file, which stays; on a disk shared by several machines it must support flock.
        work: what the holder does, for the log of those who wait.
    """
    if not is_main_process():
        yield
        return
    path.parent.mkdir(parents=True, exist_ok=True)
    lock = FileLock(path)
    try:
        lock.acquire(timeout=0)
    except Timeout:
        log.info("waiting for another process, which %s", work)
        lock.acquire()
    try:
        yield
    finally:
        lock.release()


def is_held(path: Path) -> bool:
    """Whether a process holds the lock on `path` at this moment."""
    if not path.is_file():
        return False
    lock = FileLock(path)
    try:
        lock.acquire(timeout=0)
    except Timeout:
        return True
    lock.release()
    return False
