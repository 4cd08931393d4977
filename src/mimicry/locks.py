"""Work that only one process may do at a time; the lock of a process that is killed is free at once."""

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from filelock import FileLock, Timeout

from mimicry.ranks import agreed, is_main_process

log = logging.getLogger(__name__)

# Those who wait together tell each other so as often: none may wait so long for the others that it takes them for dead.
ROUND_S = 60.0


@contextmanager
def held(path: Path, work: str) -> Iterator[None]:
    """Holds the lock on `path` for the block, after waiting for whoever holds it now.

    The further processes of one distributed job work under the lock of its first, and if they have met wait with it.

    Args:
        path: an empty file, which stays; on a disk shared by several machines it must support flock.
        work: what the holder does, for the log of those who wait.
    """
    lock = None
    if is_main_process():
        path.parent.mkdir(parents=True, exist_ok=True)
        lock = FileLock(path)
    if not agreed(_acquired(lock, 0.0)):
        log.info("waiting for another process, which %s", work)
        while not agreed(_acquired(lock, ROUND_S)):
            pass
    try:
        yield
    finally:
        if lock is not None:
            lock.release()


def _acquired(lock: FileLock | None, timeout_s: float) -> bool:
    """Whether the lock is ours within so many seconds; for a process that needs none, at once."""
    if lock is None:
        return True
    try:
        lock.acquire(timeout=timeout_s)
    except Timeout:
        return False
    return True


def is_held(path: Path) -> bool:
    """Whether a process holds the lock on `path` at this moment."""
    if not path.is_file():
        return False
    lock = FileLock(path)
    if not _acquired(lock, 0.0):
        return True
    lock.release()
    return False
