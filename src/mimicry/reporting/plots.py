"""Figures for people, drawn without pyplot so that no global state is left behind."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

MAX_COLUMNS = 6
DPI = 150
_TOKEN_CHARACTERS = 12
_INCHES_PER_TOKEN = 0.175
_CAPTION = (
    "Rows: query tokens; columns: key tokens; colour: attention weight, one scale per column of panels.\n"
    "Each layer shows the head in which"
)


def attention_maps_figure(
    teacher: np.ndarray | None,
    student: np.ndarray,
    tokens: Sequence[str],
    title: str,
    path: Path,
    difference: bool = False,
) -> Path:
    """Draw the teacher's attention above the student's for one sentence, as a PNG at 150 dpi.

    One column per layer, at most six, evenly spaced from first to last; in each the head with the teacher's lowest mean
    entropy, because a smooth feature map finds that one hardest to copy. Both maps of a column share their colours.

    Args:
        teacher: weights of shape (layers, heads, n, n), rows sum to 1 over keys; None for a model that imitates none,
            whose own sharpest heads are shown then.
        student: the same for the student.
        tokens: the n tokens, padding left out.
        title: first line of the figure.
        path: where to write; the folder is made.
        difference: draw a third row, the student's weights less the teacher's.

    Returns:
        `path`.

    Raises:
        ValueError: when shapes or tokens do not fit together, or a weight is not finite.
    """
    maps = {"model": student} if teacher is None else {"teacher": teacher, "student": student}
    _check(list(maps.values()), tokens)
    first = next(iter(maps))
    shown = _sharpest_heads(maps[first])
    side = max(2.4, _INCHES_PER_TOKEN * len(tokens))
    rows = [*maps, "student - teacher"] if difference and teacher is not None else [*maps]
    figure = Figure(figsize=(len(shown) * side + 1.5, len(rows) * side + 1.7), layout="compressed")
    axes = figure.subplots(len(rows), len(shown), squeeze=False)
    for column, (layer, head) in zip(axes.T, shown, strict=True):
        weights = [weights[layer, head] for weights in maps.values()]
        _draw_column(figure, list(column[: len(maps)]), weights)
        if len(rows) > len(maps):
            _draw_difference(figure, column[-1], weights[1] - weights[0])
        column[0].set_title(f"layer {layer}, head {head}", fontsize=12)
    _label_outer_axes(axes, rows, [_shortened(token) for token in tokens])
    # Outside the panels' own area, which "tight" then makes part of the image: as titles they would overlap the panels.
    # parse_math off: a dollar sign in a title or token is text, not a formula.
    figure.text(0.5, 1.01, title, ha="center", va="bottom", fontsize=15, parse_math=False)
    figure.text(
        0.5,
        -0.01,
        f"{_CAPTION} the {first}'s attention has the lowest mean entropy.",
        ha="center",
        va="top",
        fontsize=10,
        color="0.3",
    )
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, format="png", dpi=DPI, bbox_inches="tight")
    return path


def _check(maps: Sequence[np.ndarray], tokens: Sequence[str]) -> None:
    shapes = [weights.shape for weights in maps]
    if len(shapes[0]) != 4 or len(set(shapes)) > 1:
        raise ValueError(f"teacher and student must share (layers, heads, n, n), got {', '.join(map(str, shapes))}")
    if shapes[0][2:] != (len(tokens), len(tokens)):
        raise ValueError(f"tokens must name the rows and columns {shapes[0][2:]}, got {len(tokens)} tokens")
    if not all(np.isfinite(weights).all() for weights in maps):
        raise ValueError("teacher and student must be finite, got a NaN or an infinity")


def _sharpest_heads(teacher: np.ndarray) -> list[tuple[int, int]]:
    """(layer, head) of the lowest mean entropy, the first one when several tie."""
    layers = np.unique(np.linspace(0, len(teacher) - 1, min(MAX_COLUMNS, len(teacher))).round().astype(int))
    surprise = -np.log(np.where(teacher > 0, teacher, 1.0))
    entropy = (teacher * surprise).sum(-1).mean(-1)
    return [(int(layer), int(entropy[layer].argmin())) for layer in layers]


def _draw_column(figure: Figure, column: list[Axes], maps: list[np.ndarray]) -> None:
    top = max(float(weights.max()) for weights in maps)
    for ax, weights in zip(column, maps, strict=True):
        image = ax.imshow(weights, cmap="viridis", vmin=0.0, vmax=top, interpolation="nearest")
        ax.set(xticks=[], yticks=[])
    bar = figure.colorbar(image, ax=column, location="bottom", shrink=0.9, aspect=25, ticks=[0.0, top])
    bar.ax.set_xticklabels(["0", f"{top:.2g}"], fontsize=10)


def _draw_difference(figure: Figure, ax: Axes, difference: np.ndarray) -> None:
    """Purple where the student attends more, orange where the teacher does."""
    top = max(float(np.abs(difference).max()), 1e-6)
    image = ax.imshow(difference, cmap="PuOr", vmin=-top, vmax=top, interpolation="nearest")
    ax.set(xticks=[], yticks=[])
    bar = figure.colorbar(image, ax=ax, location="bottom", shrink=0.9, aspect=25, ticks=[-top, 0.0, top])
    bar.ax.set_xticklabels([f"-{top:.2g}", "0", f"+{top:.2g}"], fontsize=10)


def _label_outer_axes(axes: np.ndarray, names: Sequence[str], tokens: Sequence[str]) -> None:
    """Key tokens below the last row, query tokens left of the first column; the panels between share them."""
    positions = range(len(tokens))
    for ax in axes[-1]:
        ax.set_xticks(positions, tokens, rotation=90, fontsize=10, parse_math=False)
    for ax, name in zip(axes[:, 0], names, strict=True):
        ax.set_yticks(positions, tokens, fontsize=10, parse_math=False)
        ax.set_ylabel(name, fontsize=13)


def _shortened(token: str) -> str:
    return token if len(token) <= _TOKEN_CHARACTERS else f"{token[: _TOKEN_CHARACTERS - 1]}…"
