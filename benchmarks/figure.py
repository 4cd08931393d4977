"""Time and memory against length, on logarithmic axes: the shape of the paper's efficiency figure."""

from collections.abc import Sequence
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure


def cost_figure(lines: Sequence[Any]) -> Figure:
    """One column per mode and direction; time above, memory below. `lines` are the benchmark's measurements."""
    columns = list(dict.fromkeys((line.mode, line.direction) for line in lines))
    figure = Figure(figsize=(3.6 * len(columns), 6.4), layout="constrained")
    axes = figure.subplots(2, len(columns), sharex=True, squeeze=False)
    for column, (mode, direction) in enumerate(columns):
        some = [line for line in lines if (line.mode, line.direction) == (mode, direction)]
        _draw(axes[0, column], some, "median_s", 1e3)
        _draw(axes[1, column], some, "extra_bytes", 1e-6)
        axes[0, column].set_title(f"{mode}, {direction}", fontsize=9)
        axes[1, column].set_xlabel("tokens")
    axes[0, 0].set_ylabel("time (ms)")
    axes[1, 0].set_ylabel("extra memory (MB)")
    return figure


def _draw(axis: Axes, lines: Sequence[Any], field: str, unit: float) -> None:
    for name in dict.fromkeys(line.contender for line in lines):
        points = [(line.tokens, getattr(line, field)) for line in lines if line.contender == name]
        points = [(tokens, unit * value) for tokens, value in points if value]
        if points:
            axis.plot(*zip(*points, strict=True), marker="o", label=name)
    axis.set_xscale("log", base=2)
    axis.set_yscale("log")
    axis.grid(visible=True, which="both", alpha=0.25)
    if axis.has_data():
        axis.legend(fontsize=7)
    else:
        axis.set_visible(False)
