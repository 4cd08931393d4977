"""Scores of all variants side by side, as dots with their intervals."""

import textwrap
from collections.abc import Sequence
from pathlib import Path

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from mimicry.reporting.comparison import group_records
from mimicry.reporting.intervals import interval
from mimicry.reporting.plots import DPI
from mimicry.reporting.run_record import ModelState, RunRecord, states_of
from mimicry.reporting.tables import PERPLEXITIES, STATE_LABELS, metric_heading, shown
from mimicry.reporting.variants import finished, variants

# Okabe and Ito's colours, which people who confuse red and green can tell apart.
PALETTE = ("#0072B2", "#E69F00", "#009E73", "#D55E00", "#56B4E9", "#CC79A7", "#000000")
COLOURS: dict[ModelState, str] = {
    "teacher": "#666666",
    "no_train": PALETTE[1],
    "distilled": PALETTE[4],
    "recovered": PALETTE[0],
    "trained": PALETTE[2],
}
MARKERS: dict[ModelState, str] = {"no_train": "o", "distilled": "s", "recovered": "D", "trained": "D"}
# Characters in a line of a row's label: some name several options.
_LABEL = 38


def score_figure(records: Sequence[RunRecord], path: Path, score: str | None = None) -> Path | None:
    """One panel for each regime, model, task and data: the primary metric of every variant in each state.

    Bars are 95 % intervals over seeds; the grey band is the teachers'. Perplexities have a logarithmic scale.

    Args:
        records: any; runs that failed are left out.
        path: PNG to write.
        score: such as `val/f1`; None takes each task's primary metric.

    Returns:
        `path`; None, and no file, where no run has finished.
    """
    groups = {key: runs for key, group in group_records(records).items() if (runs := finished(group))}
    if not groups:
        return None
    rows = [{textwrap.fill(label, _LABEL): same for label, same in variants(runs).items()} for runs in groups.values()]
    heights = [max(2, sum(0.6 + 0.4 * (1 + label.count("\n")) for label in labels)) for labels in rows]
    figure = Figure(figsize=(8.0, 0.36 * sum(heights) + 1.25 * len(rows)), layout="constrained")
    axes = figure.subplots(len(rows), 1, squeeze=False, height_ratios=heights)[:, 0]
    for ax, (key, runs), labels in zip(axes, groups.items(), rows, strict=True):
        name = score or runs[0].score_names()[0]
        _draw_panel(ax, labels, name, states_of(runs[0].regime))
        ax.set_title(" · ".join(key[:3]), fontsize=10, loc="left", parse_math=False)
        ax.set_xlabel(metric_heading(name), fontsize=9)
    # One entry for each state that any panel has.
    handles = {label: handle for ax in axes for handle, label in zip(*ax.get_legend_handles_labels(), strict=True)}
    order = [label for label in STATE_LABELS.values() if label in handles]
    figure.legend([handles[label] for label in order], order, loc="outside upper right", ncols=len(order), fontsize=8)
    figure.savefig(path, format="png", dpi=DPI)
    return path


def _draw_panel(ax: Axes, labels: dict[str, list[RunRecord]], name: str, states: Sequence[ModelState]) -> None:
    for position, runs in enumerate(reversed(labels.values())):
        for state in states:
            values = [value for run in runs if (value := shown(name, run.value(state, name))) is not None]
            if state == "teacher" or not values:
                continue
            of = interval(values)
            style = {"color": COLOURS[state], "marker": MARKERS[state], "markersize": 5, "linestyle": "none"}
            ax.errorbar(of.mean, position, xerr=of.half, capsize=2, label=STATE_LABELS[state], **style)
    everyone = [run for runs in labels.values() for run in runs]
    teachers = [value for run in everyone if (value := shown(name, run.value("teacher", name))) is not None]
    if teachers:
        span, colour = (min(teachers), max(teachers)), COLOURS["teacher"]
        # The line keeps a single teacher visible.
        ax.axvspan(*span, color=colour, alpha=0.25, linewidth=2, zorder=0, label=STATE_LABELS["teacher"])
    ax.set_yticks(range(len(labels)), list(reversed(labels)), fontsize=9, parse_math=False)
    ax.set_ylim(-0.6, len(labels) - 0.4)
    ax.grid(axis="x", color="0.9")
    ax.set_axisbelow(True)
    ax.spines[["top", "right"]].set_visible(False)
    if name in PERPLEXITIES:
        ax.set_xscale("log")
