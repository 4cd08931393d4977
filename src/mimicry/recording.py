"""What a run measures, put into its record."""

from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from mimicry.regimes.runner import StateResult
from mimicry.reporting.provenance import git_state, hardware, package_versions
from mimicry.reporting.run_record import ENTROPY, KL, SCORE_PREFIX, Measurement, RunRecord, StageTime
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
    measured = [
        Measurement(f"{SCORE_PREFIX}{name}", value, UNITS[name], result.state, "validation")
        for name, value in result.scores.items()
    ]
    if result.state != "teacher":
        measured.append(Measurement(KL, result.attention.kl, "nats", result.state, "validation"))
    measured.append(Measurement(ENTROPY, result.attention.student_entropy, "nats", result.state, "validation"))
    cost = result.cost
    stage = StageTime(result.state, cost.wall_s, cost.steps, cost.tokens_per_s, cost.reused)
    return replace(record, stages=(*record.stages, stage), metrics=(*record.metrics, *measured))
