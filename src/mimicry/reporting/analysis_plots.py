"""Figures of what a record says about attention: values per layer and head, distributions, weights over q·k."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from mimicry.reporting.plots import DPI
from mimicry.reporting.series import Curve, HeadGrid
from mimicry.reporting.tables import STATE_LABELS

# Okabe and Ito's colours, which all readers tell apart.
COLOURS = {
    "teacher": "#000000",
    "no_train": "#D55E00",
    "distilled": "#56B4E9",
    "recovered": "#009E73",
    "trained": "#0072B2",
}
LABELS = {
    "analysis/entropy": "entropy (nats)",
    "analysis/entropy_normalised": "entropy / log(visible keys)",
    "analysis/kl": "KL(teacher ‖ student) (nats)",
    "analysis/total_variation": "total variation",
    "analysis/top_k": "share of the teacher's top keys",
    "analysis/output_cosine": "cosine of attention outputs",
    "analysis/monotonicity": "Spearman's ρ of weight and q·k",
    "analysis/kendall": "Kendall's τ of weight and q·k",
    "analysis/isotonic_r2": "R² of an isotonic fit over q·k",
}
# Ends of the colour scale that mean something; others are taken from the values.
LIMITS = {
    "analysis/entropy_normalised": (0.0, 1.0),
    "analysis/total_variation": (0.0, 1.0),
    "analysis/top_k": (0.0, 1.0),
    "analysis/isotonic_r2": (0.0, 1.0),
}


def heads_figure(grids: Sequence[HeadGrid], title: str, path: Path) -> Path:
    """One quantity per layer (down) and head (across), a panel for each state of the model, all in one colour scale.

    Args:
        grids: of one quantity, at least one, in the order of the states; heads without a value stay white.
        title: first line of the figure.
        path: where to write a PNG at 150 dpi; the folder is made.

    Raises:
        ValueError: if there is no grid, or they are of several quantities.
    """
    names = {grid.name for grid in grids}
    if len(names) != 1:
        raise ValueError(f"grids must be of one quantity, got {', '.join(sorted(names)) or 'none'}")
    (name,) = names
    panels = [_matrix(grid) for grid in grids]
    known = np.concatenate([panel[np.isfinite(panel)] for panel in panels])
    low, high = LIMITS.get(name, (known.min(), known.max()) if known.size else (0.0, 1.0))
    columns = min(2, len(panels))
    rows = -(-len(panels) // columns)
    width, height = (max(1.4, 0.2 * max(panel.shape[axis] for panel in panels)) for axis in (1, 0))
    figure = Figure(figsize=(columns * (width + 0.25) + 1.0, rows * (height + 0.5)), layout="constrained")
    axes = figure.subplots(rows, columns, squeeze=False, sharex=True, sharey=True)
    for ax, grid, panel in zip(axes.flat, grids, panels, strict=False):
        image = ax.imshow(panel, cmap="viridis", vmin=low, vmax=high, interpolation="nearest", aspect="auto")
        ax.set_title(_state(grid.stage), fontsize=10)
        ax.set_xticks(_ticks(panel.shape[1]))
        ax.set_yticks(_ticks(panel.shape[0]))
        ax.tick_params(labelsize=8)
    for ax in axes.flat[len(panels) :]:
        ax.set_axis_off()
    figure.supxlabel("head", fontsize=9)
    figure.supylabel("layer", fontsize=9)
    bar = figure.colorbar(image, ax=axes)
    bar.set_label(LABELS.get(name, name), fontsize=9)
    bar.ax.tick_params(labelsize=8)
    return _saved(figure, title, path)


def entropy_histogram_figure(curves: Sequence[Curve], title: str, path: Path) -> Path:
    """How many queries attend how sharply, a line for each state; `curves` are of `analysis/entropy_histogram`."""
    figure = Figure(figsize=(4.6, 3.0), layout="constrained")
    ax = figure.subplots()
    for curve in curves:
        values = 100 * _numbers(curve.y)
        ax.step(_numbers(curve.x), values, where="mid", color=_colour(curve.stage), label=_state(curve.stage), lw=1.6)
    ax.set_xlabel("entropy / log(visible keys)   (0: one key, 1: all alike)", fontsize=9)
    ax.set_ylabel("queries (%)", fontsize=9)
    ax.set_xlim(0, 1)
    ax.set_ylim(bottom=0)
    _tidy(ax)
    return _saved(figure, title, path)


def monotonicity_figure(curves: Sequence[Curve], points: Sequence[dict[str, Any]], title: str, path: Path) -> Path:
    """Log weights over what softmax gives for the same q·k: points, their median and the middle 80 %, by state.

    Softmax is the diagonal. A curve that falls gives more attention to keys that match less; a flat one cannot tell
    them apart.

    Args:
        curves: of `analysis/monotonicity`, one for each state.
        points: with `state`, `log_softmax` and `log_weight` each.
        title: first line of the figure.
        path: where to write.
    """
    figure = Figure(figsize=(2.4 * len(curves) + 0.8, 3.2), layout="constrained")
    axes = figure.subplots(1, len(curves), squeeze=False, sharex=True, sharey=True)[0]
    for ax, curve in zip(axes, curves, strict=True):
        mine = [point for point in points if point["state"] == curve.stage]
        xs, ys = ([point[name] for point in mine] for name in ("log_softmax", "log_weight"))
        ax.plot(xs, ys, ".", ms=2, color="0.55", alpha=0.5, rasterized=True)
        x, low, high = (_numbers(values) for values in (curve.x, curve.low, curve.high))
        ax.fill_between(x, low, high, color=_colour(curve.stage), alpha=0.25, lw=0)
        ax.plot(x, _numbers(curve.y), color=_colour(curve.stage), lw=1.8)
        ax.plot([-12, 0], [-12, 0], color="0.2", lw=0.8, ls="--")
        ax.set_title(_state(curve.stage), fontsize=10)
        ax.set_xlim(-12, 0)
        ax.set_ylim(-16, 0.5)
        ax.tick_params(labelsize=8)
        ax.grid(alpha=0.25)
    figure.supxlabel("q·k/√d, less the query's log-sum-exp: the log weight softmax would give", fontsize=9)
    figure.supylabel("log weight (nats)", fontsize=9)
    return _saved(figure, title, path)


def positions_figure(curves: Sequence[Curve], title: str, path: Path) -> Path:
    """A quantity over the position of the query, or over the length of texts, a line for each state."""
    figure = Figure(figsize=(4.6, 3.0), layout="constrained")
    ax = figure.subplots()
    for curve in curves:
        style = {"color": _colour(curve.stage), "label": _state(curve.stage), "marker": "."}
        ax.plot(_numbers(curve.x), _numbers(curve.y), lw=1.6, **style)
    over_lengths = curves[0].x_name == "tokens"
    if over_lengths:
        ax.set_xscale("log", base=2)
        ax.xaxis.set_major_formatter("{x:,.0f}")
    ax.set_xlabel("length of the text (tokens)" if over_lengths else "position of the query (tokens)", fontsize=9)
    ax.set_ylabel(LABELS.get(curves[0].name, curves[0].name), fontsize=9)
    ax.set_ylim(bottom=0)
    _tidy(ax)
    return _saved(figure, title, path)


# A figure for each kind of curve, by name of the curve and of its x.
CURVE_FIGURES: dict[tuple[str, str], Callable[[Sequence[Curve], str, Path], Path]] = {
    ("analysis/entropy_histogram", "entropy_normalised"): entropy_histogram_figure,
    ("analysis/kl", "position"): positions_figure,
    ("analysis/entropy_normalised", "position"): positions_figure,
    ("analysis/kl", "tokens"): positions_figure,
    ("analysis/entropy", "tokens"): positions_figure,
}


def _matrix(grid: HeadGrid) -> np.ndarray:
    """Layers of fewer heads than others end in NaN."""
    matrix = np.full((len(grid.values), max(map(len, grid.values))), np.nan)
    for row, values in zip(matrix, grid.values, strict=True):
        row[: len(values)] = _numbers(values)
    return matrix


def _numbers(values: Sequence[float | None]) -> np.ndarray:
    return np.array([np.nan if value is None else value for value in values], dtype=float)


def _ticks(count: int) -> range:
    return range(0, count, max(1, -(-count // 6)))


def _state(stage: str) -> str:
    return next((label for state, label in STATE_LABELS.items() if state == stage), stage)


def _colour(stage: str) -> str:
    return COLOURS.get(stage, "#CC79A7")


def _tidy(ax: Axes) -> None:
    ax.tick_params(labelsize=8)
    ax.grid(alpha=0.25)
    ax.legend(fontsize=8, frameon=False)


def _saved(figure: Figure, title: str, path: Path) -> Path:
    # parse_math off: a dollar sign in a title is text, not a formula.
    figure.text(0.5, 1.01, title, ha="center", va="bottom", fontsize=11, parse_math=False)
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, format="png", dpi=DPI, bbox_inches="tight")
    return path
