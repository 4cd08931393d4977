"""Analyses the student of a finished run anew: its rows and models are loaded, and nothing is trained."""

import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any

from torch import nn

from mimicry.execution import teacher_key, teachers
from mimicry.quieting import quieten
from mimicry.recording import with_attention, with_attention_files, with_tables
from mimicry.regimes.job import ConversionJob
from mimicry.regimes.parts import build_parts
from mimicry.regimes.reload import reload
from mimicry.reporting.attention_report import read_tables
from mimicry.reporting.run_record import RECORD_NAME, ModelState, RunRecord, read_record, write_record
from mimicry.training.attention_analysis import analyse_state

log = logging.getLogger(__name__)


def analyse_run(build: Callable[..., Any], folder: Path, plain: dict[str, Any]) -> RunRecord:
    """Measures the last state of a run, and its teacher, and renews what its record says of their attention.

    Args:
        build: makes an object of a plain config with `_target_` (Hydra's instantiate).
        folder: of the run, with `record.json` and the student.
        plain: the config of this command, of which `analysis` and `trainer` count.

    Returns:
        The record as it was written. Scores, costs and settings are as they were.

    Raises:
        ValueError: if the run did not finish, or its student is gone or broken.
    """
    quieten()
    record = read_record(folder / RECORD_NAME)
    if record.status != "finished":
        raise ValueError(f"from must be a run that finished, got one that failed: {record.reason}")
    student = folder / record.artifacts.get("student", "student")
    if not student.is_dir():
        raise ValueError(f"from must still hold the student that the run saved, got no {student}")
    settings = record.config | {"analysis": plain["analysis"]}
    parts = build_parts(build, settings)
    parts.check()
    trainer = build(plain["trainer"])
    job = ConversionJob(
        parts,
        trainer,
        teachers(),
        teacher_key(settings),
        reuse_teacher=True,
        progress=folder,
        checkpoint_minutes=1.0,
    )
    reload(job, student)
    record, tables = _measured(job, record, folder, trainer(logger=False, enable_checkpointing=False))
    record, _ = with_attention_files(record, job.attention_maps(), tables, parts.analysis.full is not None, folder)
    write_record(record, folder)
    return record


def _measured(job: ConversionJob, record: RunRecord, folder: Path, trainer: Any) -> tuple[RunRecord, Any]:
    """The record and its tables, with the last state and, if it is there, the teacher measured anew."""
    assert job.batches is not None
    assert job.student is not None
    states: dict[ModelState, nn.Module] = {record.stages[-1].stage: job.student}
    if job.teacher is not None:
        states = {"teacher": job.teacher, **states}
    rows, tables, analysis = next(iter(job.batches.validation.values())), read_tables(folder), job.parts.analysis
    for state, model in states.items():
        attention = analyse_state(
            job.teacher or model, model, job.batches, rows, analysis, trainer.strategy.root_device
        )
        record, tables = with_attention(record, state, attention), with_tables(tables, state, attention)
        log.info("%s: attention analysed", state.replace("_", " "))
    return record, tables
