"""Losses and held-out scores while the stages of all variants trained."""

from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from mimicry.reporting.comparison import group_records
from mimicry.reporting.plots import DPI
from mimicry.reporting.run_record import RunRecord, states_of
from mimicry.reporting.score_figure import PALETTE
from mimicry.reporting.series import Curve
from mimicry.reporting.tables import PERPLEXITIES, STATE_LABELS, metric_heading, shown
from mimicry.reporting.variants import finished, variants

LOSS = "train/loss"
# Tell the variants of one attention apart.
DASHES = ("solid", "dashed", "dotted", "dashdot")


def training_figure(records: Sequence[RunRecord], path: Path, score: str | None = None) -> Path | None:
    """A row for each regime, model, task and data; in it a panel for the loss, and the score, of each stage.

    One line for each run, in the colour of its attention. Teachers are left out: variants share them. Losses of
    distilled states are distances of attention weights, not of the task; perplexities have a logarithmic scale.

    Args:
        records: any; runs that failed, or have recorded no curve of their training, are left out.
        path: PNG to write.
        score: such as `val/f1`; None takes each task's primary metric.

    Returns:
        `path`; None, and no file, where no run has a curve.
    """
    rows = []
    for key, group in group_records(records).items():
        runs = finished(group)
        name = score or (runs[0].score_names()[0] if runs else LOSS)
        labels = {label: same for label, same in variants(runs).items() if any(run.curves for run in same)}
        kinds = [(stage, curve) for stage in states_of(key[0]) if stage != "teacher" for curve in (LOSS, name)]
        panels = [kind for kind in kinds if any(_curves(run, *kind) for run in runs)]
        if panels:
            rows.append((" · ".join(key[:3]), labels, panels))
    if not rows:
        return None
    columns = max(len(panels) for _, _, panels in rows)
    heights = [max(2.6, 0.2 * len(labels) + 0.6) for _, labels, _ in rows]
    attns = sorted({runs[0].attn for _, labels, _ in rows for runs in labels.values()})
    colours = {attn: PALETTE[number % len(PALETTE)] for number, attn in enumerate(attns)}
    figure = Figure(figsize=(3.6 * columns + 2.4, sum(heights)), layout="constrained")
    axes = figure.subplots(len(rows), columns, squeeze=False, height_ratios=heights)
    for line, (title, labels, panels) in zip(axes, rows, strict=True):
        for ax, (stage, name) in zip(line, panels, strict=False):
            _draw_panel(ax, labels, stage, name, colours)
            ax.set_title(f"{title}\n{STATE_LABELS[stage]}", fontsize=9, loc="left", parse_math=False)
        for ax in line[len(panels) :]:
            ax.set_axis_off()
        handles = {name: line for ax in line for line, name in zip(*ax.get_legend_handles_labels(), strict=True)}
        order, last = [label for label in labels if label in handles], line[len(panels) - 1]
        last.legend(
            [handles[label] for label in order],
            order,
            loc="upper left",
            bbox_to_anchor=(1.02, 1.0),
            fontsize=7,
            frameon=False,
        )
    figure.savefig(path, format="png", dpi=DPI)
    return path


def _draw_panel(
    ax: Axes, labels: dict[str, list[RunRecord]], stage: str, name: str, colours: Mapping[str, str]
) -> None:
    seen: Counter[str] = Counter()
    for label, runs in labels.items():
        colour = colours[runs[0].attn]
        style = {"color": colour, "linestyle": DASHES[seen[colour] % len(DASHES)]}
        seen[colour] += 1
        curves = [curve for run in runs for curve in _curves(run, stage, name)]
        for curve in curves:
            values = curve.y if name == LOSS else [shown(name, value) for value in curve.y]
            # A single epoch has a single score.
            marker = "o" if len(curve.x) == 1 else None
            mine = label if curve is curves[0] else None
            ax.plot(curve.x, values, label=mine, linewidth=1.0, alpha=0.8, marker=marker, markersize=4, **style)
    ax.set_xlabel("batches", fontsize=8)
    ax.set_ylabel("loss" if name == LOSS else metric_heading(name), fontsize=8)
    ax.tick_params(labelsize=7)
    ax.grid(color="0.9")
    ax.spines[["top", "right"]].set_visible(False)
    if name in PERPLEXITIES:
        ax.set_yscale("log")


def _curves(run: RunRecord, stage: str, name: str) -> list[Curve]:
    """Those over batches; some older records have the same over optimizer steps as well."""
    return [curve for curve in run.curves if (curve.stage, curve.name, curve.x_name) == (stage, name, "batch")]
