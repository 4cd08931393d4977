"""How far a sweep is: `python -m mimicry.sweeps` shows the jobs of the latest one, on this machine or a shared disk."""

import argparse
import json
import logging
import os
import statistics
import sys
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Literal

from rich.console import Console
from rich.live import Live
from rich.table import Table

from mimicry.locks import held, is_held
from mimicry.reporting.run_record import failure_reason

log = logging.getLogger(__name__)

STATE, LOCK = "state.json", ".lock"
COLOURS = {"finished": "green", "running": "cyan", "failed": "red", "interrupted": "yellow"}
# Of the live table.
REFRESH_S = 2.0


@dataclass(frozen=True)
class Job:
    """One job of a sweep.

    Args:
        number: from 0, in the order of the sweep.
        name: its overrides.
        total: jobs of the whole sweep; None where it is not known beforehand.
        state: a job whose process was killed is interrupted.
        wall_s: seconds it took; None until it has ended.
        reason: why it failed, in one line.
        reused: it showed the record of an earlier run.
    """

    number: int
    name: str
    total: int | None
    state: Literal["running", "finished", "failed", "interrupted"] = "running"
    wall_s: float | None = None
    reason: str | None = None
    reused: bool = False


class Followed:
    """What a job tells about itself while it is followed."""

    reused = False


@contextmanager
def followed(job: Job, sweep: Path, fail_fast: bool) -> Iterator[Followed]:
    """Keeps the state of a job in the sweep's folder while the block runs, and logs how far the sweep is.

    Args:
        job: about to start.
        sweep: folder of this sweep alone.
        fail_fast: refuse to start once another job has failed.

    Raises:
        ValueError: if another job has failed and `fail_fast` is set.
    """
    failed = next((other for other in jobs(sweep) if other.state == "failed"), None)
    if fail_fast and failed is not None:
        raise ValueError(f"not started: job {failed.number} ({failed.name}) has failed, and fail_fast=true")
    folder = sweep / str(job.number)
    began = time.perf_counter()
    tells = Followed()
    with held(folder / LOCK, "runs the same job"):
        _write(job, folder)
        log.info("Job %s (%s); %s", job.number, job.name, progress(jobs(sweep)))
        try:
            yield tells
            job = replace(job, state="finished", reused=tells.reused)
        except BaseException as error:
            job = replace(job, state="failed", reason=failure_reason(error))
            raise
        finally:
            job = replace(job, wall_s=time.perf_counter() - began)
            _write(job, folder)
            ended = job.state if job.reason is None else f"failed: {job.reason}"
            log.info("Job %s %s; %s", job.number, ended, progress(jobs(sweep)))


def jobs(sweep: Path) -> list[Job]:
    """The jobs that have started so far, by number."""
    found = []
    for path in sorted(sweep.glob(f"*/{STATE}"), key=lambda path: int(path.parent.name)):
        job = Job(**json.loads(path.read_text(encoding="utf-8")))
        killed = job.state == "running" and not is_held(path.parent / LOCK)
        found.append(replace(job, state="interrupted") if killed else job)
    return found


def progress(started: Sequence[Job]) -> str:
    """One line: finished, running and failed jobs, and the time left if enough is known."""
    count = Counter(job.state for job in started)
    total = next((job.total for job in started if job.total is not None), None)
    shown = f"{count['finished']}{'' if total is None else f' of {total}'} finished"
    parts = [shown, *(f"{count[state]} {state}" for state in ("running", "failed", "interrupted") if count[state])]
    # Jobs that showed an earlier record took no time.
    took = [job.wall_s for job in started if job.state == "finished" and not job.reused and job.wall_s is not None]
    left = 0 if total is None else total - count["finished"] - count["failed"]
    if took and left:
        minutes = left * statistics.fmean(took) / max(1, count["running"]) / 60
        parts.append(f"about {max(1.0, minutes):.0f} min left")
    return ", ".join(parts)


def overview(started: Sequence[Job]) -> Table:
    """Every job that has started, its state and time, under the line of `progress`."""
    table = Table(title=progress(started), title_justify="left")
    for heading in ("job", "overrides", "state", "time (s)"):
        table.add_column(heading, overflow="fold")
    for job in started:
        state = f"[{COLOURS[job.state]}]{job.state}[/]{', earlier' if job.reused else ''}"
        reason = "" if job.reason is None else f": {job.reason}"
        took = "" if job.wall_s is None else f"{job.wall_s:.0f}"
        table.add_row(str(job.number), job.name, f"{state}{reason}", took)
    return table


def latest(root: Path) -> Path:
    """The folder of the sweep below `root` whose last job started last.

    Raises:
        ValueError: if there is none.
    """
    states = sorted(root.rglob(f"*/{STATE}"), key=lambda path: path.stat().st_mtime)
    if not states:
        raise ValueError(f"root must hold a sweep, found none below {root}")
    return states[-1].parent.parent


def main(arguments: list[str] | None = None) -> int:
    """Shows the jobs of a sweep, once or until Ctrl-C; 1 when there is none."""
    parser = argparse.ArgumentParser(prog="python -m mimicry.sweeps", description=__doc__)
    parser.add_argument("root", type=Path, nargs="?", default=Path("results/sweeps"), help="of one sweep or of several")
    parser.add_argument("--follow", action="store_true", help="go on showing it until Ctrl-C")
    options = parser.parse_args(arguments)
    try:
        sweep = latest(options.root)
    except ValueError as error:
        sys.stderr.write(f"error: {error}\n")
        return 1
    if not options.follow:
        Console().print(overview(jobs(sweep)))
        return 0
    with Live(overview(jobs(sweep)), refresh_per_second=1) as live:
        try:
            while True:
                time.sleep(REFRESH_S)
                live.update(overview(jobs(sweep)))
        except KeyboardInterrupt:
            return 0


def _write(job: Job, folder: Path) -> None:
    partial = folder / f".{STATE}.{os.getpid()}"
    partial.write_text(json.dumps(asdict(job)), encoding="utf-8")
    partial.replace(folder / STATE)


if __name__ == "__main__":
    sys.exit(main())
