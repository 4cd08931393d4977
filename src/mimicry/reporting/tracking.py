"""Weights & Biases, a mirror of the run record: one run per job, never a prompt, never a hang, a quiet terminal."""

import http.client
import logging
import threading
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from mimicry.reporting.run_record import failure_reason

if TYPE_CHECKING:
    from wandb import Run

MODES = ("auto", "online", "offline", "disabled")
STEP_METRIC = "trainer/global_step"
PROBE_TIMEOUT_S = 3.0
INIT_TIMEOUT_S = 20.0
FINISH_TIMEOUT_S = 60.0

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Tracking:
    """Whether and where jobs are tracked.

    Args:
        mode: online, offline, disabled, or auto: online only when logged in and the host answers within seconds.
        project: W&B project.
    """

    mode: Literal["auto", "online", "offline", "disabled"] = "auto"
    project: str = "mimicry"


@dataclass(frozen=True)
class TrackedJob:
    """How one job appears in W&B; `id` must be new for every job, since W&B overwrites a run that has the same id."""

    project: str
    id: str
    name: str
    group: str
    job_type: str
    tags: tuple[str, ...]
    config: dict[str, Any]


def resolve_mode(mode: str) -> tuple[str, str]:
    """Turn `auto` into online or offline; every other mode stays as it is.

    Args:
        mode: auto, online, offline or disabled.

    Returns:
        The mode to open the run in, and the reason in one line.

    Raises:
        ValueError: for any other mode.
    """
    if mode not in MODES:
        raise ValueError(f"mode must be one of {', '.join(MODES)}, got {mode!r}")
    if mode != "auto":
        return mode, "as asked"
    host = _quiet_wandb().settings.base_url
    # Reachability first: a login against a dead host takes seconds and still says yes.
    if not _answers(f"{host}/healthz"):
        return "offline", f"{host} does not answer"
    if not _logged_in():
        return "offline", f"not logged in to {host}"
    return "online", f"logged in to {host}"


@contextmanager
def wandb_run(job: TrackedJob, folder: Path, mode: str) -> Iterator["Run"]:
    """Open exactly one W&B run for one job, and close it as failed when the block raises.

    Hand the run to Lightning as `WandbLogger(experiment=run)`, on rank 0 only.

    Args:
        job: how the run is named and grouped.
        folder: an offline or online run keeps its files under `<folder>/wandb`.
        mode: see `resolve_mode`; a disabled run is a stub that accepts everything and writes nothing.

    Raises:
        ValueError: for an unknown mode.
        ConnectionError: when the run was asked to be online and cannot be; one line.
    """
    run = _open(job, folder, mode)
    try:
        # Without these two calls W&B plots everything over its own count of log calls.
        run.define_metric(STEP_METRIC)
        run.define_metric("*", step_metric=STEP_METRIC, step_sync=True)
        yield run
    except BaseException:
        # Not `with run:`, which would also print the traceback.
        _close(run, exit_code=1)
        raise
    _close(run, exit_code=0)


def run_directory(run: "Run") -> Path | None:
    """Where the run keeps its files, as `wandb sync` takes it; None for a disabled run."""
    directory = Path(run.sync_dir)
    return directory if directory.is_dir() else None


def _open(job: TrackedJob, folder: Path, asked: str) -> "Run":
    mode, reason = resolve_mode(asked)
    # Before any start, because W&B itself would ask for the key on a terminal and wait.
    if asked == "online" and not _logged_in():
        raise ConnectionError("mode online needs a W&B login, got none: run `wandb login` or set WANDB_API_KEY")
    try:
        run = _start(job, folder, mode)
    except Exception as error:  # W&B's errors share no base class
        if asked == "online":
            raise ConnectionError(f"mode online could not start a W&B run: {failure_reason(error)}") from error
        if mode != "online":
            raise
        mode, reason = "offline", failure_reason(error)
        # W&B holds the id of a failed start as "in use" until the process ends.
        run = _start(replace(job, id=f"{job.id}-offline"), folder, mode)
    if mode == "offline":
        _log.info("W&B offline (%s); upload later with: wandb sync %s", reason, run.sync_dir)
    return run


def _start(job: TrackedJob, folder: Path, mode: str) -> "Run":
    import wandb

    _quiet_wandb()
    if mode != "disabled":
        # W&B makes the folder too, but only after it has warned that there is none.
        folder.mkdir(parents=True, exist_ok=True)
    settings = wandb.Settings(
        silent=True,
        console="off",
        init_timeout=INIT_TIMEOUT_S,
        finish_timeout=FINISH_TIMEOUT_S,
        finish_timeout_raises=True,
    )
    return wandb.init(
        project=job.project,
        id=job.id,
        name=job.name,
        group=job.group,
        job_type=job.job_type,
        tags=job.tags,
        config=job.config,
        dir=None if mode == "disabled" else folder,
        mode=mode,
        # A run left open by an earlier job of the same process must not swallow this one.
        reinit="create_new",
        settings=settings,
    )


def _close(run: "Run", exit_code: int) -> None:
    try:
        run.finish(exit_code=exit_code)
    except TimeoutError:
        # The mirror is late; the run itself is complete on disk.
        _log.warning("W&B upload unfinished; complete it with: wandb sync --include-online %s", run.sync_dir)


def _quiet_wandb() -> Any:
    import wandb

    return wandb.setup(wandb.Settings(silent=True))


def _logged_in() -> bool:
    import wandb

    _quiet_wandb()
    return wandb.login(prompt=False, verify=False)


def _answers(url: str) -> bool:
    """Whether the host answers in time, with whatever status."""
    answered = threading.Event()

    def probe() -> None:
        try:
            urllib.request.urlopen(url, timeout=PROBE_TIMEOUT_S).close()
        except urllib.error.HTTPError as error:
            error.close()
        except (OSError, ValueError, http.client.HTTPException):
            return
        answered.set()

    # In a thread, because a name lookup can outlast the socket's timeout by far.
    thread = threading.Thread(target=probe, daemon=True)
    thread.start()
    thread.join(PROBE_TIMEOUT_S)
    return answered.is_set()
