"""What a run measures, put into its record."""

import math
from collections.abc import Iterator, Sequence
from dataclasses import asdict, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from mimicry.regimes.maps import AttentionMaps
from mimicry.regimes.runner import StateResult
from mimicry.regimes.trial import Trial
from mimicry.reporting.attention_maps import write_attention_maps
from mimicry.reporting.attention_report import FOLDER, AttentionTables, write_attention_report
from mimicry.reporting.plots import attention_maps_figure
from mimicry.reporting.provenance import git_state, hardware, package_versions
from mimicry.reporting.run_record import (
    ENTROPY,
    KL,
    RECORD_NAME,
    SCORE_PREFIX,
    Measurement,
    ModelState,
    RunRecord,
    StageTime,
    TrialRecord,
    states_of,
)
from mimicry.reporting.series import Curve, HeadGrid
from mimicry.training.attention_analysis import AttentionSummary
from mimicry.training.attention_statistics import CurveNumbers, HeadNumbers
from mimicry.training.metrics import UNITS


def blank_record(plain: dict[str, Any], identity: dict[str, Any], fingerprint: str) -> RunRecord:
    """A record of a run that has not begun: what is known before, and failed until it is finished."""
    commit, dirty = git_state(Path(__file__).parent)
    return RunRecord(
        status="failed",
        reason="did not finish",
        **identity,
        seed=plain["seed"],
        fingerprint=fingerprint,
        # Where results lie is this machine's matter, and what others report no part of what was run.
        config={key: value for key, value in plain.items() if key not in ("paths", "targets")},
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
    trained = tuple(curve for trial in result.trials if trial.chosen for curve in _training_curves(state, trial))
    stage = next(
        (
            StageTime(state, entry.wall_s, entry.steps, entry.tokens_per_s, result.reused)
            for entry in trials
            if entry.chosen
        ),
        StageTime(state, 0.0, 0, None),
    )
    grown = replace(
        record,
        stages=(*record.stages, stage),
        metrics=(*record.metrics, *measured),
        trials=(*record.trials, *trials),
        curves=(*record.curves, *trained),
        analysis_s=(record.analysis_s or 0.0) + result.analysis_s,
    )
    return with_attention(grown, state, result.attention)


def _trial_record(state: ModelState, trial: Trial) -> TrialRecord:
    plain = asdict(trial)
    del plain["loss"], plain["held_out_scores"]
    return TrialRecord(stage=state, **plain)


def _training_curves(state: ModelState, trial: Trial) -> Iterator[Curve]:
    """The training loss, and the scores on held-out rows after each epoch where they decided when to stop."""
    for name, points in (("train/loss", trial.loss), *trial.held_out_scores):
        if points:
            steps, values = zip(*points, strict=True)
            yield Curve(name, state, "batch", tuple(map(float, steps)), values)


def with_attention(record: RunRecord, state: ModelState, attention: AttentionSummary) -> RunRecord:
    """The record with what was measured of one state's attention, in place of what it had of that state."""
    heads = [grid for grid in record.heads if grid.stage != state]
    curves = [curve for curve in record.curves if curve.stage != state or not curve.name.startswith("analysis/")]
    heads += [_grid(entry, state) for entry in attention.heads]
    curves += [_curve(entry, state) for entry in attention.curves]
    order = states_of(record.regime)
    return replace(
        record,
        heads=tuple(sorted(heads, key=lambda grid: order.index(grid.stage))),
        curves=tuple(sorted(curves, key=lambda curve: order.index(curve.stage))),
    )


def with_tables(tables: AttentionTables, state: ModelState, attention: AttentionSummary) -> AttentionTables:
    """The tables with one state more, or anew: what of its attention is more than a record should hold."""
    heads = [
        {
            "state": state,
            "quantity": entry.name,
            "unit": entry.unit,
            "layer": layer,
            "head": head,
            "mean": mean,
            "std": entry.std[layer][head],
            "count": int(entry.count[layer][head]),
            **{name: values[layer][head] for name, values in entry.quantiles.items()},
        }
        for entry in attention.heads
        for layer, row in enumerate(entry.mean)
        for head, mean in enumerate(row)
    ]
    points = [{"state": state, "log_softmax": x, "log_weight": y} for x, y in attention.points]
    others = [[row for row in rows if row["state"] != state] for rows in (tables.heads, tables.points)]
    return AttentionTables((*others[0], *heads), (*others[1], *points))


def with_attention_files(
    record: RunRecord, maps: AttentionMaps, tables: AttentionTables, full: bool, folder: Path
) -> tuple[RunRecord, dict[str, Path]]:
    """Draws and writes what was measured of attention, and names it in the record.

    Args:
        record: with all of its states.
        maps: of one text, for the figure and its file.
        tables: of a full analysis.
        full: whether there was one, of which more is written.
        folder: of the run.

    Returns:
        The record with its artifacts, and what `write_attention_report` has written, empty unless `full`.
    """
    whose = "attention" if maps.teacher is None else "attention of teacher and student"
    title = f"{record.attn} on {record.task}: {whose}"
    drawn = (maps.teacher, maps.student, maps.tokens)
    figure = attention_maps_figure(*drawn, title, folder / "attention_maps.png", difference=full)
    weights = write_attention_maps(*drawn, folder)
    written = write_attention_report(record, tables, folder) if full else {}
    artifacts = record.artifacts | {"figure": figure.name, "attention maps": weights.name}
    artifacts |= {"analysis": FOLDER} if written else {}
    if full:
        # Slow to import; and plotly.js, which the page holds, takes 4.7 MB that not every run should leave.
        from mimicry.reporting.dashboard.maps import read_maps
        from mimicry.reporting.dashboard.page import write_maps_page

        stored = read_maps(record, folder / RECORD_NAME)
        assert stored is not None
        artifacts["attention page"] = write_maps_page(record, stored, folder / "attention_maps.html").name
    return replace(record, artifacts=artifacts), written


def _grid(entry: HeadNumbers, state: ModelState) -> HeadGrid:
    return HeadGrid(entry.name, state, entry.unit, tuple(_short(row) for row in entry.mean))


def _curve(entry: CurveNumbers, state: ModelState) -> Curve:
    points = (_short(values) for values in (entry.x, entry.y, entry.low, entry.high))
    return Curve(entry.name, state, entry.x_name, *points)


def _short(values: Sequence[float]) -> tuple[float | None, ...]:
    """Five digits are all that a mean over hundreds of queries is worth, and records are committed."""
    return tuple(float(f"{value:.5g}") if math.isfinite(value) else None for value in values)
