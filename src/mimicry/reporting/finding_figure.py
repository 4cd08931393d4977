"""Quality over spikiness and over monotonicity, from scratch beside conversion, one point for each attention."""

from collections.abc import Sequence
from pathlib import Path

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.text import Annotation
from matplotlib.transforms import Bbox

from mimicry.reporting.finding import Correlation, Point
from mimicry.reporting.plots import DPI

AXES = {
    "entropy gap": "entropy less softmax's (nats)",
    "monotonicity": "monotonicity: Spearman's ρ of weight and q·k",
}
REGIMES = {"from scratch": ("scratch",), "after conversion": ("finetuned", "pretrained")}
# Okabe and Ito's colours, which all readers tell apart, and a shape for each.
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")
MARKERS = "osD^vPX"
MOST_CHARACTERS = 26
# Diameter of a point, in points.
MARKER = 5
# Where a label may stand beside its point, in points, and how it is aligned; the first that is free is taken.
CORNERS = (
    *((4, 3, "left", "bottom"), (-4, 3, "right", "bottom"), (4, -3, "left", "top"), (-4, -3, "right", "top")),
    *((0, 5, "center", "bottom"), (0, -5, "center", "top"), (4, 12, "left", "bottom"), (-4, 12, "right", "bottom")),
    *((4, -12, "left", "top"), (-4, -12, "right", "top")),
)


def finding_figure(points: Sequence[Point], found: Sequence[Correlation], path: Path) -> Path:
    """Two rows, from scratch and after conversion; two columns, entropy gap and monotonicity. A PNG at 150 dpi.

    Args:
        points: `Point`s; those without a value are left out, and a panel without any says so. Where some places have
            a correlation, the others, of few attentions each, are left out too.
        found: the `Correlation`s, whose rho stands in the legend.
        path: where to write; the folder is made.
    """
    figure = Figure(figsize=(8.6, 7.4), layout="constrained")
    axes = figure.subplots(2, 2)
    for row, (name, regimes) in zip(axes, REGIMES.items(), strict=True):
        mine = [point for point in points if point.regime in regimes]
        for ax, cause in zip(row, AXES, strict=True):
            _panel(ax, mine, cause, [entry for entry in found if entry.cause == cause])
            ax.set_xlabel(AXES[cause], fontsize=9)
        unit = "score (%)" if name == "from scratch" else "% of teacher"
        row[0].set_ylabel(f"{name}: {unit}", fontsize=9)
    # The layout must stand before anything can be seen to overlap.
    figure.draw_without_rendering()
    for ax in axes.flat:
        _keep_apart(ax)
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, format="png", dpi=DPI, bbox_inches="tight")
    return path


def _panel(ax: Axes, points: Sequence[Point], cause: str, found: Sequence[Correlation]) -> None:
    known = [point for point in points if point.causes[cause] is not None and point.quality is not None]
    placed = {entry.place for entry in found}
    known = [point for point in known if point.place in placed] or known
    ax.tick_params(labelsize=8)
    if not known:
        ax.text(0.5, 0.5, "no record measured it", ha="center", va="center", fontsize=9, transform=ax.transAxes)
        ax.set(xticks=[], yticks=[])
        return
    rho = {entry.place: f", ρ = {entry.rho:.2f}, p = {entry.p:.2g}" for entry in found}
    for index, place in enumerate(dict.fromkeys(point.place for point in known)):
        mine = [point for point in known if point.place == place]
        x, y = [point.causes[cause] for point in mine], [point.quality for point in mine]
        style = {"color": COLOURS[index % len(COLOURS)], "marker": MARKERS[index % len(MARKERS)]}
        ax.plot(x, y, ls="", ms=MARKER, label=f"{place}{rho.get(place, '')}", **style)
        for point in mine:
            # parse_math off: an option's value may hold a dollar sign.
            ax.annotate(
                point.label if len(point.label) <= MOST_CHARACTERS else f"{point.label[: MOST_CHARACTERS - 1]}…",
                (point.causes[cause], point.quality),
                xytext=CORNERS[0][:2],
                textcoords="offset points",
                fontsize=6.5,
                color="0.25",
                parse_math=False,
            )
    ax.grid(alpha=0.25)
    ax.margins(x=0.14, y=0.12)
    ax.legend(fontsize=6.5, loc="lower left" if cause == "entropy gap" else "lower right", framealpha=0.8)


def _keep_apart(ax: Axes) -> None:
    """Moves labels to a place by their point where they meet no frame, point or other label, if there is one."""
    frame, labels = ax.get_window_extent(), [text for text in ax.texts if isinstance(text, Annotation)]
    reach = MARKER / 2 * ax.figure.dpi / 72
    at = ax.transData.transform([label.xy for label in labels]) if labels else ()
    taken = [Bbox([[x - reach, y - reach], [x + reach, y + reach]]) for x, y in at]

    def box(label: Annotation, corner: tuple[int, int, str, str]) -> Bbox:
        right, up, horizontal, vertical = corner
        label.set(position=(right, up), ha=horizontal, va=vertical)
        return label.get_window_extent()

    def is_free(where: Bbox) -> bool:
        inside = frame.x0 <= where.x0 and where.x1 <= frame.x1
        return bool(inside) and not any(map(where.overlaps, taken))

    for label in labels:
        corner = next((corner for corner in CORNERS if is_free(box(label, corner))), CORNERS[0])
        taken.append(box(label, corner))
