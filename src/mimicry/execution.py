"""Runs one job and records it: tracking, curves, figure, student on disk, and last of all the run record."""

import functools
import logging
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import lightning as L
from lightning.pytorch.loggers import CSVLogger, WandbLogger
from lightning.pytorch.plugins.environments import LightningEnvironment
from lightning.pytorch.strategies import ParallelStrategy

from mimicry.assets import cache_root
from mimicry.locks import held
from mimicry.quieting import quieten
from mimicry.ranks import agreed, is_main_process, started_together
from mimicry.recording import blank_record, with_attention_files, with_state, with_tables
from mimicry.regimes.job import ConversionJob
from mimicry.regimes.parts import Parts, build_parts
from mimicry.regimes.progress import discard
from mimicry.reporting.attention_report import AttentionTables
from mimicry.reporting.outcome import log_outcome
from mimicry.reporting.provenance import peak_memory_bytes
from mimicry.reporting.run_record import (
    RunRecord,
    failure_reason,
    finished_record,
    write_record,
)
from mimicry.reporting.tracked_analysis import log_analysis
from mimicry.reporting.tracking import TrackedJob, Tracking, run_directory, wandb_run
from mimicry.students import save_student
from mimicry.training.resuming import StageCheckpoint, WholeCheckpointIO

log = logging.getLogger(__name__)

# Decide how the finetuned teacher comes out; with the seed and its rows they name it in the cache.
TEACHER_KEYS = ("model", "optimizer", "scheduler", "trainer", "seed")
# In the run's folder, until it has finished: what an interrupted run goes on from.
PROGRESS = "progress"
# What conf/config.yaml calls a run outside of any experiment.
UNNAMED = "unnamed"
CELL = ("regime", "model", "task", "attn", "seed", "fingerprint")
# Held while a process runs what the folder is for.
LOCK = ".lock"


def run_and_record(
    build: Callable[..., Any], plain: dict[str, Any], identity: dict[str, Any], fingerprint: str, folder: Path
) -> RunRecord:
    """Checks, runs and records one job.

    Args:
        build: makes an object of a plain config with `_target_` (Hydra's instantiate).
        plain: the resolved config.
        identity: regime, model, task and attn, as they name the run's folder; what was chosen on the command line.
        fingerprint: of the config.
        folder: the run's own; made when the checks have passed.

    Raises:
        ValueError: bad input, before anything is downloaded or trained and before the folder is made.
        Exception: whatever stops the run; a record with status `failed` and the reason is left in the folder.
    """
    quieten()
    parts = build_parts(build, plain)
    parts.check()
    if started_together():
        _meet(build(plain["trainer"])(logger=False, enable_checkpointing=False))
    with held(folder / LOCK, "runs the same (its record will be shown)"):
        # Whoever we have waited for may have finished it.
        earlier = agreed(None if plain["rerun"] else finished_record(folder))
        return earlier or _recorded(build, plain, parts, folder, blank_record(plain, identity, fingerprint))


def _meet(trainer: L.Trainer) -> None:
    """Lets processes that torchrun or Slurm has started find each other before one decides what all of them do.

    Those that Lightning starts need not: their main process has decided by then, and works under its locks.
    """
    strategy = trainer.strategy
    if isinstance(strategy, ParallelStrategy) and not isinstance(strategy.cluster_environment, LightningEnvironment):
        strategy.setup_environment()


def _recorded(
    build: Callable[..., Any], plain: dict[str, Any], parts: Parts, folder: Path, record: RunRecord
) -> RunRecord:
    """Runs, and leaves the record whatever happens."""

    def keep(newer: RunRecord) -> None:
        nonlocal record
        record = newer

    began = time.perf_counter()
    # Curves of an earlier attempt would mix with ours.
    discard(folder / "curves")
    if plain["rerun"]:
        discard(folder / PROGRESS)
    try:
        _run(build, plain, parts, folder, record, keep)
        keep(replace(record, status="finished", reason=None))
        discard(folder / PROGRESS)
    except BaseException as error:
        # Lightning turns Ctrl-C during training into an exit.
        stopped = isinstance(error, KeyboardInterrupt | SystemExit)
        keep(replace(record, reason="interrupted" if stopped else failure_reason(error)))
        if stopped:
            raise KeyboardInterrupt from error
        raise
    finally:
        keep(replace(record, wall_s=time.perf_counter() - began, peak_memory_bytes=peak_memory_bytes()))
        _write(record, folder)
    return record


def teacher_key(plain: dict[str, Any]) -> dict[str, Any]:
    """Whatever of the config decides how the teacher comes out."""
    return {name: plain[name] for name in TEACHER_KEYS} | {"teach": plain["regime"].get("teach")}


def teachers() -> Path:
    """Where finetuned teachers are kept for other variants."""
    return cache_root() / "teachers"


def _write(record: RunRecord, folder: Path) -> None:
    if not is_main_process():
        return
    if record.status == "failed" and finished_record(folder) is not None:
        log.warning("This run failed (%s); the finished record of an earlier one is kept.", record.reason)
    else:
        write_record(record, folder)


def _run(
    build: Callable[..., Any],
    plain: dict[str, Any],
    parts: Parts,
    folder: Path,
    record: RunRecord,
    keep: Callable[[RunRecord], None],
) -> None:
    """Runs the job under tracking; `keep` gets the record whenever it has grown, so that a crash loses nothing."""
    tracking: Tracking = build(plain["logger"])
    experiment = plain["experiment"]
    job = TrackedJob(
        project=tracking.project,
        # New for every attempt: W&B overwrites a run that has the same id.
        id=f"{record.fingerprint}-{time.time_ns() // 1_000_000}",
        name=f"{record.regime}-{record.attn}-{record.model}-{record.task}-s{record.seed}",
        group=f"{record.regime}-{record.model}-{record.task}" if experiment == UNNAMED else experiment,
        job_type=record.regime,
        tags=(record.attn, record.model, record.task),
        # What the runs of an experiment differ in, under names that W&B can group by.
        config=record.config | {"cell": {name: getattr(record, name) for name in CELL}},
    )
    with wandb_run(job, folder, tracking.mode if is_main_process() else "disabled") as run:
        trainer = functools.partial(_trainer, build, plain, run, folder)
        conversion = ConversionJob(
            parts,
            trainer,
            teachers(),
            teacher_key(plain),
            reuse_teacher=not plain["rerun"],
            progress=folder / PROGRESS,
            checkpoint_minutes=float(plain["checkpoint_minutes"]),
        )
        tables = AttentionTables()
        for result in conversion.run():
            record, tables = with_state(record, result), with_tables(tables, result.state, result.attention)
            keep(record)
            if result.last_weights is not None and is_main_process():
                record = replace(record, artifacts={"last weights": _moved(result.last_weights, folder)})
            scores = ", ".join(f"{score.name} {score.value:.4f}" for score in result.scores)
            log.info("%s: %s", result.state.replace("_", " "), scores)
        if not is_main_process():
            return
        began = time.perf_counter()
        full = parts.analysis.full is not None
        record, written = with_attention_files(record, conversion.attention_maps(), tables, full, folder)
        analysis_s = (record.analysis_s or 0.0) + time.perf_counter() - began
        record = replace(record, analysis_s=analysis_s, data=conversion.data_summary())
        student = save_student(conversion, record, plain["adapters"], folder / "student")
        artifacts = record.artifacts | {"student": student.name}
        directory = run_directory(run)
        if directory is not None:
            artifacts["W&B run"] = directory.resolve().relative_to(folder.resolve()).as_posix()
        record = replace(record, artifacts=artifacts)
        keep(record)
        log_outcome(run, record, folder / record.artifacts["figure"])
        began = time.perf_counter()
        log_analysis(run, record, written)
        keep(replace(record, analysis_s=analysis_s + time.perf_counter() - began))


def _moved(file: Path, folder: Path) -> str:
    """Out of what is discarded when the run has finished; its new name."""
    return file.replace(folder / file.name).name


def _trainer(
    build: Callable[..., Any],
    plain: dict[str, Any],
    run: Any,
    folder: Path,
    stage: str,
    max_epochs: int,
    callbacks: list[L.Callback],
) -> L.Trainer:
    """A fresh trainer for one stage, with progress bar, W&B and a CSV of its curves."""
    callbacks = [*(build(options) for options in plain["callbacks"].values() if options is not None), *callbacks]
    for callback in callbacks:
        if hasattr(callback, "stage"):
            callback.stage = stage
    # Only training has curves; measurements stand in the record.
    loggers = [] if stage.startswith("measure") else [WandbLogger(experiment=run), CSVLogger(folder, "curves", stage)]
    trainer: L.Trainer = build(plain["trainer"])(
        max_epochs=max_epochs,
        callbacks=callbacks,
        logger=loggers,
        default_root_dir=folder,
        # Ours is among the callbacks; measuring needs none.
        enable_checkpointing=any(isinstance(callback, StageCheckpoint) for callback in callbacks),
        # Our loaders deal every process its share of training batches, and every row to measure on.
        use_distributed_sampler=False,
        plugins=[WholeCheckpointIO()],
    )
    return trainer
