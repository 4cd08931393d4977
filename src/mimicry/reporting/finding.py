"""Does quality follow spiky and monotone attention? `python -m mimicry.reporting.finding results --save DIR`.

One point for each attention of a table, mean over its seeds: how much smoother its attention is than softmax's, how
well it rises with the dot product, and how good the model is. Source of the claim: arXiv 2402.04347, Sec. 3.2 and its
Tables 2 and 3: spiky attention is enough from scratch, conversion needs attention that is monotone too.
"""

import argparse
import math
import statistics
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from scipy.stats import permutation_test, spearmanr

from mimicry.reporting.comparison import group_records
from mimicry.reporting.report import Report, report_command
from mimicry.reporting.run_record import ENTROPY, KL, ModelState, RunRecord
from mimicry.reporting.tables import PERPLEXITIES, fraction_of_teacher, markdown_table, number, shown
from mimicry.reporting.variants import final_state, finished, variants

MONOTONICITY = "analysis/monotonicity"
SOFTMAX = "softmax"
# What quality is correlated with: name, and whether the claim expects it to rise (1) or fall (-1) with quality.
CAUSES = {"entropy gap": -1, "monotonicity": 1, "KL": -1}
# Fewer variants order themselves in too few ways.
LEAST_VARIANTS = 4
# Which state of its model a run is judged by.
StateOf = Callable[[RunRecord], ModelState]


@dataclass(frozen=True)
class Point:
    """One attention of one table, mean over seeds; None where its records do not tell.

    Args:
        regime, model, task, label: of the row.
        seeds: finished runs.
        quality: in percent of the teacher's; from scratch the score itself as tables show it, None for a perplexity.
        causes: by name of `CAUSES`; the gap is the entropy less softmax's on the same inputs, in nats.
    """

    regime: str
    model: str
    task: str
    label: str
    seeds: int
    quality: float | None
    causes: dict[str, float | None]

    @property
    def place(self) -> str:
        """What it may be compared within."""
        return f"{self.regime} · {self.model} · {self.task}"


@dataclass(frozen=True)
class Correlation:
    """Spearman's rho of a cause and quality over the variants of one place, and how often chance does as well."""

    place: str
    cause: str
    variants: int
    rho: float
    p: float

    @property
    def verdict(self) -> str:
        """Whether quality goes with the cause as the paper claims; undecided where chance does as well in 1 of 20."""
        if self.p >= 0.05:
            return "undecided"
        return "yes" if self.rho * CAUSES[self.cause] > 0 else "no"


def points_of(records: Sequence[RunRecord], before_recovery: bool = False) -> list[Point]:
    """One point for each row of each table that has a score.

    Args:
        records: of any runs.
        before_recovery: take conversions as they are before the model is trained on its task again: with distilled
            maps, or untrained ones where there was nothing to distil.
    """
    groups = group_records(records).items()
    return [point for key, group in groups for point in _points(*key[:3], group, before_recovery)]


def _points(regime: str, model: str, task: str, group: Sequence[RunRecord], before_recovery: bool) -> list[Point]:
    primary = next((names[0] for record in finished(group) if (names := record.score_names())), None)
    if primary is None:
        return []
    final = final_state(group, primary)

    def state(run: RunRecord) -> ModelState:
        if final == "trained" or not before_recovery:
            return final
        return "no_train" if run.value("distilled", primary) is None else "distilled"

    rows = {label: done for label, runs in variants(group).items() if (done := finished(runs))}
    reference = _mean(rows.get(SOFTMAX, ()), lambda run: run.value(state(run), ENTROPY))
    measures = {
        "entropy gap": _gap(state, reference),
        "monotonicity": lambda run: _of_heads(run, state(run), MONOTONICITY),
        "KL": lambda run: run.value(state(run), KL),
    }
    return [
        Point(
            *(regime, model, task, label, len(runs)),
            quality=_mean(runs, _quality(state, primary)),
            causes={name: _mean(runs, measure) for name, measure in measures.items()},
        )
        for label, runs in rows.items()
    ]


def correlations(points: Sequence[Point]) -> list[Correlation]:
    """Over the variants of each place, softmax left out: it is what gaps are measured from."""
    found = []
    for place in dict.fromkeys(point.place for point in points):
        mine = [point for point in points if point.place == place and point.label != SOFTMAX]
        for cause in CAUSES:
            pairs = [
                (p.causes[cause], p.quality) for p in mine if p.causes[cause] is not None and p.quality is not None
            ]
            if len(pairs) >= LEAST_VARIANTS and all(len(set(values)) > 1 for values in zip(*pairs, strict=True)):
                found.append(Correlation(place, cause, len(pairs), *_spearman(pairs)))
    return found


def finding_markdown(points: Sequence[Point], found: Sequence[Correlation]) -> str:
    """A table of correlations and one of what they are made of."""
    lines = [["regime · model · task", "quality and", "Spearman's ρ", "p", "variants", "as claimed"]]
    for entry in found:
        cells = [number(entry.rho, 2), number(entry.p, 3), str(entry.variants), entry.verdict]
        lines.append([entry.place, entry.cause, *cells])
    about = (
        "Over attentions, softmax left out; p: share of orderings that correlate as strongly, of either sign. "
        "Variants share tasks and teachers, so these say what goes together, not what causes what."
    )
    rows = [
        ["regime · model · task", "attention", "seeds", "quality", "entropy gap (nats)", "monotonicity", "KL (nats)"]
    ]
    for point in sorted(points, key=lambda point: (point.place, -(point.quality or -math.inf))):
        causes = [number(point.causes[name], 3) for name in CAUSES]
        rows.append([point.place, point.label, str(point.seeds), number(point.quality, 1), *causes])
    of = "Quality: percent of the teacher; from scratch, the score in percent."
    if len(lines) == 1:
        about = f"No place has {LEAST_VARIANTS} attentions with these numbers."
    return f"{about}\n\n{markdown_table(lines)}\n\n{of}\n\n{markdown_table(rows)}"


def _gap(state: StateOf, reference: float | None) -> Callable[[RunRecord], float | None]:
    """Less the teacher's entropy; from scratch, less that of the model trained with softmax."""

    def gap(run: RunRecord) -> float | None:
        entropy = run.value(state(run), ENTROPY)
        softmax = reference if run.regime == "scratch" else run.value("teacher", ENTROPY)
        return None if entropy is None or softmax is None else entropy - softmax

    return gap


def _quality(state: StateOf, primary: str) -> Callable[[RunRecord], float | None]:
    def quality(run: RunRecord) -> float | None:
        value = run.value(state(run), primary)
        if run.regime == "scratch":
            # A perplexity is no score: it falls as models get better, and has no place on the same axis.
            return None if primary in PERPLEXITIES else shown(primary, value)
        kept = fraction_of_teacher(primary, value, run.value("teacher", primary))
        return None if kept is None else 100 * kept

    return quality


def _of_heads(run: RunRecord, state: ModelState, name: str) -> float | None:
    """Mean over the heads that have a value."""
    grids = (grid for grid in run.heads if (grid.name, grid.stage) == (name, state))
    values = [value for grid in grids for row in grid.values for value in row if value is not None]
    return statistics.fmean(values) if values else None


def _mean(runs: Sequence[RunRecord], measure: Callable[[RunRecord], float | None]) -> float | None:
    values = [value for run in runs if (value := measure(run)) is not None]
    return statistics.fmean(values) if values else None


def _spearman(pairs: Sequence[tuple[float, float]]) -> tuple[float, float]:
    """Rho, and its two-sided p over all orderings, or 9,999 of them if there are more."""
    x, y = map(list, zip(*pairs, strict=True))

    def statistic(ordered: np.ndarray) -> float:
        return float(spearmanr(ordered, y).statistic)

    tested = permutation_test((x,), statistic, permutation_type="pairings", n_resamples=9999, rng=0)
    return float(tested.statistic), float(tested.pvalue)


def main(arguments: list[str] | None = None) -> int:
    """Writes the tables to standard output and, with --save, `finding.md` and `finding.png`; 1 without a record."""
    parser = argparse.ArgumentParser(prog="python -m mimicry.reporting.finding", description=__doc__)
    parser.add_argument("--before-recovery", action="store_true", help="judge conversions before they are trained on")

    def make(records: Sequence[RunRecord], options: argparse.Namespace) -> Report:
        points = points_of(records, options.before_recovery)
        if not points:
            return Report("")
        found = correlations(points)
        # It draws what stands here.
        from mimicry.reporting.finding_figure import finding_figure

        return Report(finding_markdown(points, found) + "\n", lambda path: finding_figure(points, found, path))

    return report_command(parser, arguments, "finding", "finished run records", make)


if __name__ == "__main__":
    sys.exit(main())
