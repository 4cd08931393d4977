"""Sequences on disk: Arrow files in the cache, written once, memory-mapped ever after."""

import hashlib
import json
import multiprocessing
import os
import tempfile
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import Future, ProcessPoolExecutor, as_completed
from functools import partial
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.console import Console
from rich.progress import track

from mimicry.assets import cache_root
from mimicry.data.lra.sequences import SequenceExample

if TYPE_CHECKING:
    import pyarrow

# Part of every folder's name: files of another layout are not found.
LAYOUT = 1
# Rows of a record batch: what is in memory while a file is written.
BATCH = 1024


def store_folder(name: str, facts: Mapping[str, Any]) -> Path:
    """Where rows are kept that are made of `facts` and nothing else."""
    text = json.dumps([LAYOUT, facts], sort_keys=True)
    return cache_root() / "lra" / f"{name}-{hashlib.sha256(text.encode()).hexdigest()[:16]}"


def file_facts(path: Path) -> list[Any]:
    """What changes when a file does."""
    stat = path.stat()
    return [str(path.resolve()), stat.st_size, stat.st_mtime_ns]


def schema() -> "pyarrow.Schema":
    """The columns: one byte per position, the second sequence of a pair or null, and the class."""
    import pyarrow as pa

    return pa.schema([("symbols", pa.binary()), ("pair", pa.binary()), ("label", pa.uint8())])


def write_rows(path: Path, rows: Iterable[SequenceExample], about: str | None = None, total: int | None = None) -> None:
    """Write a file in one go: it is there whole, or not at all.

    Args:
        path: an Arrow IPC file.
        rows: taken one by one.
        about: shown beside a progress bar; None shows none.
        total: number of rows, where it is known.
    """
    import pyarrow as pa

    path.parent.mkdir(parents=True, exist_ok=True)
    console = Console(stderr=True)
    # Beside it, so that it moves into place in one step on the same file system.
    with tempfile.TemporaryDirectory(prefix=".partial-", dir=path.parent, ignore_cleanup_errors=True) as work:
        partial_path = Path(work, path.name)
        shown = iter(track(rows, description=about or "", total=total, console=console, disable=about is None))
        with pa.OSFile(str(partial_path), "wb") as sink, pa.ipc.new_file(sink, schema()) as writer:
            while batch := list(islice(shown, BATCH)):
                columns = [[getattr(row, name) for row in batch] for name in schema().names]
                writer.write_batch(pa.record_batch(columns, schema=schema()))
        partial_path.replace(path)


def read_rows(paths: Sequence[Path]) -> "pyarrow.Table":
    """The rows of some files, one file after the other, mapped into memory.

    Raises:
        ValueError: if a file is damaged.
    """
    import pyarrow as pa

    tables = []
    for path in paths:
        try:
            tables.append(pa.ipc.open_file(pa.memory_map(str(path))).read_all())
        except pa.ArrowInvalid as error:
            reason = " ".join(str(error).split())
            raise ValueError(f"{path} must be a whole Arrow file (delete it, and it is made anew): {reason}") from error
    return pa.concat_tables(tables)


def stored(path: Path, rows: Callable[[], Iterable[SequenceExample]], about: str, total: int | None = None) -> Any:
    """The table in `path`, which is made of `rows` at the first call."""
    if not path.is_file():
        write_rows(path, rows(), about, total)
    return read_rows([path])


def usable(table: "pyarrow.Table") -> list[int]:
    """Rows without an empty sequence, which no model could read."""
    import numpy as np
    import pyarrow.compute as pc

    filled = pc.greater(pc.binary_length(table.column("symbols")), 0)
    pairs = pc.fill_null(pc.greater(pc.binary_length(table.column("pair")), 0), True)
    return np.flatnonzero(pc.and_(filled, pairs).to_numpy()).tolist()


def generate(paths: Sequence[Path], chunk: Callable[[int], list[SequenceExample]], about: str) -> "pyarrow.Table":
    """The rows of numbered chunks; those that are not in the cache yet are made, in parallel.

    Args:
        paths: of chunk 0, 1, 2, ...
        chunk: makes the rows of a chunk from its number alone; picklable.
        about: shown beside the progress bar.
    """
    jobs = [partial(_write_chunk, path, chunk, number) for number, path in enumerate(paths) if not path.is_file()]
    workers = min(len(jobs), os.cpu_count() or 1)
    if workers > 1:
        # A forked child would inherit locks that other threads of ours hold.
        context = multiprocessing.get_context("spawn")
        with ProcessPoolExecutor(workers, mp_context=context) as pool:
            try:
                _show([pool.submit(job) for job in jobs], about)
            except BaseException:
                pool.shutdown(cancel_futures=True)
                raise
    else:
        for job in track(jobs, description=about, console=Console(stderr=True), disable=not jobs):
            job()
    return read_rows(paths)


def _write_chunk(path: Path, chunk: Callable[[int], list[SequenceExample]], number: int) -> None:
    write_rows(path, chunk(number))


def _show(futures: Sequence["Future[None]"], about: str) -> None:
    for future in track(as_completed(futures), description=about, total=len(futures), console=Console(stderr=True)):
        future.result()
