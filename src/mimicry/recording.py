"""What a run measures, put into its record."""

from dataclasses import asdict, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from mimicry.regimes.runner import StateResult
from mimicry.regimes.selection import Trial
from mimicry.reporting.provenance import git_state, hardware, package_versions
from mimicry.reporting.run_record import (
    ENTROPY,
    KL,
    SCORE_PREFIX,
    Measurement,
    ModelState,
    RunRecord,
    StageTime,
    TrialRecord,
)
from mimicry.reporting.series import Curve
from mimicry.training.metrics import UNITS


def blank_record(plain: dict[str, Any], identity: dict[str, str], fingerprint: str) -> RunRecord:
    """A record of a run that has not begun: what is known before, and failed until it is finished."""
    commit, dirty = git_state(Path(__file__).parent)
    return RunRecord(
        status="failed",
        reason="did not finish",
        **identity,
        seed=plain["seed"],
        fingerprint=fingerprint,
        # Where results lie is this machine's matter.
        config={key: value for key, value in plain.items() if key != "paths"},
        commit=commit,
        dirty=dirty,
        versions=package_versions(),
        hardware=hardware(),
        data={},
        stages=(),
        metrics=(),
        peak_memory_bytes=None,
        wall_s=0.0,
        started_at=datetime.now(UTC).isoformat(timespec="seconds"),
        artifacts={},
    )


def with_state(record: RunRecord, result: StateResult) -> RunRecord:
    """The record with one more measured state."""
    state, analysed = result.state, result.scores[0].split
    measured = [
        Measurement(f"{SCORE_PREFIX}{score.name}", score.value, UNITS[score.metric], state, score.split)
        for score in result.scores
    ]
    # A model that imitates none has no divergence.
    if state not in ("teacher", "trained"):
        measured.append(Measurement(KL, result.attention.kl, "nats", state, analysed))
    measured.append(Measurement(ENTROPY, result.attention.student_entropy, "nats", state, analysed))
    trials = tuple(_trial_record(state, trial) for trial in result.trials)
    curves = tuple(_loss_curve(state, trial) for trial in result.trials if trial.chosen and trial.curve)
    stage = next(
        (
            StageTime(state, entry.wall_s, entry.steps, entry.tokens_per_s, result.reused)
            for entry in trials
            if entry.chosen
        ),
        StageTime(state, 0.0, 0, None),
    )
    return replace(
        record,
        stages=(*record.stages, stage),
        metrics=(*record.metrics, *measured),
        trials=(*record.trials, *trials),
        curves=(*record.curves, *curves),
    )


def _trial_record(state: ModelState, trial: Trial) -> TrialRecord:
    plain = asdict(trial)
    del plain["curve"]
    return TrialRecord(stage=state, **plain)


def _loss_curve(state: ModelState, trial: Trial) -> Curve:
    """The training loss of the chosen candidate."""
    steps, losses = zip(*trial.curve, strict=True)
    return Curve("train/loss", state, "batch", tuple(map(float, steps)), losses)
