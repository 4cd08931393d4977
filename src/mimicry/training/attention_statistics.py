"""What is measured of the attention of one model, streamed over batches: values per head, and curves over all heads."""

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from mimicry.analysis.streaming import Grid, HeadMoments, QuantileSketch

# Quantities and their units; those of fidelity compare with the teacher.
UNITS = {
    "entropy": "nats",
    "entropy_normalised": "fraction",
    "kl": "nats",
    "total_variation": "fraction",
    "top_k": "fraction",
    "output_cosine": "correlation",
    "monotonicity": "correlation",
    "kendall": "correlation",
    "isotonic_r2": "fraction",
}
QUANTILES = {"p05": 0.05, "p50": 0.5, "p95": 0.95}
# Of log weights in curves and fits, in nats: beside a weight of 1 smaller ones are lost in float32.
LOG_FLOOR = -16.0
BINS, POSITIONS = 48, 48
# Points of the scatter plot: so many of each layer and batch, and of all.
POINTS, MOST_POINTS = 40, 2400


@dataclass(frozen=True)
class HeadNumbers:
    """One quantity per layer and head: `mean[layer][head]` over queries, NaN where there was none; the rest likewise.

    `quantiles` is empty where only means were asked for.
    """

    name: str
    unit: str
    count: list[list[float]]
    mean: list[list[float]]
    std: list[list[float]]
    quantiles: dict[str, list[list[float]]]


@dataclass(frozen=True)
class CurveNumbers:
    """y over x for all layers and heads together; `low` and `high` are the 10 % and 90 % quantiles, or empty."""

    name: str
    x_name: str
    x: list[float]
    y: list[float]
    low: Sequence[float] = ()
    high: Sequence[float] = ()


class AttentionStatistics:
    """Collects quantities layer by layer and batch by batch; memory depends on heads and longest text alone.

    Args:
        spread: also keep quantiles, histograms and curves.
    """

    def __init__(self, spread: bool) -> None:
        self.spread = spread
        self._moments: dict[str, dict[str, HeadMoments]] = defaultdict(dict)
        self._sketches: dict[str, dict[str, QuantileSketch]] = defaultdict(dict)
        # Log weight over what softmax would give for the same query and key, and shares of entropy.
        self.rises = Grid((-12.0, 0.0), (LOG_FLOOR, 0.0), (BINS, 320))
        # Some of these pairs as they are, for a scatter plot.
        self.points: list[Tensor] = []
        self.shares = Grid((0.0, 1.0), (0.0, 1.0), (32, 1))
        self._positions = {name: (torch.zeros(0), torch.zeros(0)) for name in ("entropy_normalised", "kl")}

    def add(self, quantity: str, layer: str, values: Tensor, counted: Tensor) -> None:
        """Takes in values (batch, heads, queries) of those queries (batch, queries) that count."""
        items = values.detach().transpose(0, 1)[:, counted]
        self.add_items(quantity, layer, items)
        if quantity == "entropy_normalised":
            self.shares.add(items, torch.zeros_like(items))

    def add_items(self, quantity: str, layer: str, items: Tensor) -> None:
        """Takes in values (heads, items)."""
        moments = self._moments[quantity].setdefault(layer, HeadMoments(len(items)))
        moments.add(items)
        if self.spread:
            self._sketches[quantity].setdefault(layer, QuantileSketch(len(items))).add(items)

    def add_rises(self, softmax: Tensor, logs: Tensor) -> None:
        """Takes in log weights over those that softmax gives, of any one shape; NaN is left out."""
        self.rises.add(softmax, logs)
        pairs = torch.stack([softmax.flatten(), logs.flatten()], dim=1)
        pairs = pairs[~pairs.isnan().any(dim=1)]
        if len(self.points) < MOST_POINTS // POINTS:
            # Copied: a view would keep all pairs of the batch in memory.
            self.points.append(pairs[:: max(1, len(pairs) // POINTS)][:POINTS].to("cpu", copy=True))

    def add_positions(self, quantity: str, values: Tensor, counted: Tensor, first: int) -> None:
        """Takes in values (batch, heads, queries) by the position of the query; the first one stands at `first`."""
        values = values.detach().to("cpu", torch.float64)
        known = ~values.isnan() & counted.cpu()[:, None]
        sums = torch.nn.functional.pad(values.nan_to_num(0.0).mul(known).sum(dim=(0, 1)), (first, 0))
        counts = torch.nn.functional.pad(known.sum(dim=(0, 1)).double(), (first, 0))
        self._positions[quantity] = tuple(
            _longer_sum(old, new) for old, new in zip(self._positions[quantity], (sums, counts), strict=True)
        )

    def overall(self, quantity: str) -> float:
        """Mean over all queries, heads and layers; NaN where nothing was measured."""
        whole = HeadMoments(1)
        for moments in self._moments[quantity].values():
            total = moments.count.sum()
            one = HeadMoments(1)
            one.count, one.average = total[None], torch.tensor([moments.overall]).nan_to_num(0.0).double()
            whole.merge(one)
        return whole.overall

    def heads(self) -> tuple[HeadNumbers, ...]:
        """What was measured per layer and head, in the order of `UNITS`."""
        return tuple(self._numbers(name) for name in UNITS if self._moments[name])

    def _numbers(self, name: str) -> HeadNumbers:
        layers, sketches = self._moments[name].values(), self._sketches[name].values()
        return HeadNumbers(
            name=f"analysis/{name}",
            unit=UNITS[name],
            count=[moments.count.tolist() for moments in layers],
            mean=[moments.mean.tolist() for moments in layers],
            std=[moments.std.tolist() for moments in layers],
            quantiles={
                key: [sketch.quantile(share).tolist() for sketch in sketches]
                for key, share in QUANTILES.items()
                if sketches
            },
        )

    def curves(self) -> tuple[CurveNumbers, ...]:
        """Those that have a point; none without `spread`."""
        found = []
        if bool(self.rises.counts.any()):
            spread = [self.rises.quantile(share).tolist() for share in (0.5, 0.1, 0.9)]
            found.append(CurveNumbers("analysis/monotonicity", "q.k", self.rises.x.tolist(), *spread))
        if bool(self.shares.counts.any()):
            shares = self.shares.counts[:, 0] / self.shares.counts.sum()
            found.append(
                CurveNumbers(
                    "analysis/entropy_histogram", "entropy_normalised", self.shares.x.tolist(), shares.tolist()
                )
            )
        for name, (sums, counts) in self._positions.items():
            if bool(counts.any()):
                found.append(_by_position(name, sums, counts))
        return tuple(found)


def _longer_sum(old: Tensor, new: Tensor) -> Tensor:
    """The sum of two rows of which the shorter one ends in zeros."""
    length = max(len(old), len(new))
    first, second = (torch.nn.functional.pad(row, (0, length - len(row))) for row in (old, new))
    return first.double() + second.double()


def _by_position(name: str, sums: Tensor, counts: Tensor) -> CurveNumbers:
    """Means over stretches of equal length, at most POSITIONS of them, over the middle of each."""
    # Without what is padding in every row.
    longest = int(counts.nonzero().max()) + 1
    sums, counts = sums[:longest], counts[:longest]
    width = -(-len(sums) // POSITIONS)
    stretches = [slice(start, start + width) for start in range(0, len(sums), width)]
    means = [float(sums[part].sum() / counts[part].sum()) for part in stretches]
    middles = [(part.start + min(part.stop, len(sums)) - 1) / 2 for part in stretches]
    return CurveNumbers(f"analysis/{name}", "position", middles, means)
