"""Curves of training, from the CSV logs that a run leaves, thinned so that a record can carry them."""

import csv
import math
import re
import statistics
from collections.abc import Sequence
from pathlib import Path

from mimicry.reporting.run_record import ModelState, TrialRecord
from mimicry.reporting.series import Curve

MAX_POINTS = 100
# The state that each stage of a regime leads to.
STATES: dict[str, ModelState] = {
    "teach": "teacher",
    "distill": "distilled",
    "recover": "recovered",
    "train": "trained",
}
# A stage that tries several settings logs each of them apart: `recover 2 at 0.0001`.
_FOLDER = re.compile(r"(?P<stage>\w+)(?: (?P<epochs>\d+) at (?P<rate>\S+))?")
_X, _NO_CURVES = "step", frozenset({"step", "epoch"})
_DIGITS = 5


def training_curves(folder: Path, trials: Sequence[TrialRecord]) -> tuple[Curve, ...]:
    """What was logged while each stage trained, of the settings that won; none where nothing was trained or logged.

    Of more than `MAX_POINTS` values neighbours are averaged. A quantity that only repeats another is left out.

    Args:
        folder: with one folder for each stage and setting, and `metrics.csv` in it.
        trials: of the run; of a stage that has none yet, since the run failed, all settings are read.
    """
    curves: list[Curve] = []
    for stage, state in STATES.items():
        logs = {path: named for path in folder.glob("*/metrics.csv") if (named := _FOLDER.fullmatch(path.parent.name))}
        tried = {path: named for path, named in sorted(logs.items()) if named["stage"] == stage}
        winner = next((trial for trial in trials if trial.stage == state and trial.chosen), None)
        for path in tried if winner is None else _won(tried, winner):
            curves += _distinct(_read(path, state))
    return tuple(curves)


def _won(tried: dict[Path, re.Match[str]], winner: TrialRecord) -> list[Path]:
    """The log of the settings that won: a stage that stopped early counts fewer epochs than it was given."""
    rates = (None, f"{winner.learning_rate:g}")
    given = {path: int(named["epochs"] or winner.epochs) for path, named in tried.items() if named["rate"] in rates}
    return sorted((path for path in given if given[path] >= winner.epochs), key=lambda path: given[path])[:1]


def _read(path: Path, state: ModelState) -> list[Curve]:
    with path.open(encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    names = [name for name in (rows[0] if rows else {}) if name and name not in _NO_CURVES]
    curves = []
    for name in names:
        # Training and validation write rows of their own, with gaps for each other's columns.
        points = [(float(row[_X]), float(row[name])) for row in rows if row.get(_X) and row.get(name)]
        if points:
            x, y = zip(*_thinned(points), strict=True)
            curves.append(Curve(name, state, _X, x, y))
    return curves


def _thinned(points: list[tuple[float, float]]) -> list[tuple[float, float | None]]:
    size = math.ceil(len(points) / MAX_POINTS)
    groups = (points[start : start + size] for start in range(0, len(points), size))
    return [(group[-1][0], _rounded(statistics.fmean(y for _, y in group))) for group in groups]


def _rounded(value: float) -> float | None:
    return float(f"{value:.{_DIGITS}g}") if math.isfinite(value) else None


def _distinct(curves: list[Curve]) -> list[Curve]:
    seen = {(curve.x, curve.y): curve for curve in reversed(curves)}
    return [curve for curve in curves if seen[curve.x, curve.y] is curve]
