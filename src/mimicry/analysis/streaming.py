"""Statistics of values that arrive in blocks, in memory that does not grow with their number; any two of them merge.

Each keeps one set of numbers per head. Values that are NaN are left out. Sums are in float64, on the CPU.
"""

import math

import torch
from torch import Tensor

from mimicry.shapes import HeadItems, PerHead

# Sizes below it count as zero in a sketch, sizes above as the largest it knows.
SMALLEST, LARGEST = 1e-6, 1e6


class HeadMoments:
    """Count, mean and standard deviation, exact up to rounding in float64. Source: Chan et al. 1983, Eq. 2.1."""

    def __init__(self, heads: int) -> None:
        self.count = torch.zeros(heads, dtype=torch.float64)
        self.average = torch.zeros(heads, dtype=torch.float64)
        self.squares = torch.zeros(heads, dtype=torch.float64)

    def add(self, values: HeadItems) -> None:
        """Takes in some values of each head."""
        values = values.detach().to("cpu", torch.float64)
        counted = ~values.isnan()
        count = counted.sum(dim=1).double()
        mean = values.nan_to_num(0.0).sum(dim=1) / count.clamp(min=1)
        squares = (values - mean[:, None]).nan_to_num(0.0).square().sum(dim=1)
        self._take(count, mean, squares)

    def merge(self, other: "HeadMoments") -> None:
        """Takes in all that `other` has seen."""
        self._take(other.count, other.average, other.squares)

    def _take(self, count: Tensor, mean: Tensor, squares: Tensor) -> None:
        total = self.count + count
        # Two empty sides have nothing to weigh.
        share = count / total.clamp(min=1)
        apart = mean - self.average
        self.average = self.average + apart * share
        self.squares = self.squares + squares + apart.square() * self.count * share
        self.count = total

    @property
    def mean(self) -> PerHead:
        """NaN where nothing was seen."""
        return torch.where(self.count > 0, self.average, torch.nan)

    @property
    def std(self) -> PerHead:
        """Of all values, not of a sample; NaN where nothing was seen."""
        return torch.where(self.count > 0, (self.squares / self.count.clamp(min=1)).sqrt(), torch.nan)

    @property
    def overall(self) -> float:
        """Mean over all values of all heads; NaN where nothing was seen."""
        return float((self.average * self.count).sum() / self.count.sum()) if bool(self.count.any()) else math.nan


class QuantileSketch:
    """Quantiles with a bounded relative error, from counts in buckets whose sizes grow geometrically.

    Bucket i holds sizes in (g^(i-1), g^i] with g = (1 + accuracy) / (1 - accuracy); there is one row of them for either
    sign and one bucket for zero. Source: DDSketch, arXiv 1908.10693, Sec. 2.2; here the range is fixed.

    Args:
        heads: rows of counts.
        accuracy: largest relative error of a quantile whose size lies between SMALLEST and LARGEST, in (0, 1).

    Raises:
        ValueError: if accuracy is out of its range.
    """

    def __init__(self, heads: int, accuracy: float = 0.02) -> None:
        if not 0 < accuracy < 1:
            raise ValueError(f"accuracy must be in (0, 1), got {accuracy}")
        self.accuracy = accuracy
        self._step = math.log((1 + accuracy) / (1 - accuracy))
        self._sizes = math.ceil(math.log(LARGEST / SMALLEST) / self._step)
        # Negative sizes from the largest to the smallest, zero, positive ones from the smallest to the largest.
        self.counts = torch.zeros(heads, 2 * self._sizes + 1, dtype=torch.int64)

    def add(self, values: HeadItems) -> None:
        """Takes in some values of each head."""
        values = values.detach().to("cpu", torch.float64)
        size = values.abs().clamp(max=LARGEST)
        bucket = ((size / SMALLEST).clamp(min=1).log() / self._step).ceil().clamp(1, self._sizes).nan_to_num(0.0).long()
        bucket = torch.where(size < SMALLEST, 0, bucket) * values.sign().nan_to_num(0.0).long() + self._sizes
        self.counts.scatter_add_(1, bucket, (~values.isnan()).long())

    def merge(self, other: "QuantileSketch") -> None:
        """Takes in all that `other` has seen.

        Raises:
            ValueError: if its accuracy or number of heads is another.
        """
        if other.accuracy != self.accuracy or other.counts.shape != self.counts.shape:
            raise ValueError(
                f"other must have accuracy {self.accuracy} and {len(self.counts)} heads, "
                f"got {other.accuracy} and {len(other.counts)}"
            )
        self.counts += other.counts

    def quantile(self, share: float) -> PerHead:
        """The value that `share` of the values do not exceed, in [0, 1]; NaN where nothing was seen."""
        total = self.counts.sum(dim=1)
        # The rank of the lower of two middle values, counted from zero.
        rank = (share * (total - 1).clamp(min=0)).floor().long()
        bucket = (self.counts.cumsum(dim=1) <= rank[:, None]).sum(dim=1) - self._sizes
        size = SMALLEST * torch.exp(bucket.abs().double() * self._step) * 2 / (1 + math.exp(self._step))
        return torch.where(total > 0, torch.where(bucket == 0, 0.0, size) * bucket.sign(), torch.nan)


class Grid:
    """Counts of pairs (x, y) in equal cells of a rectangle; pairs beyond it count in its outermost cells.

    Args:
        x_range: lowest and highest x.
        y_range: lowest and highest y.
        cells: along x and along y, each >= 1.
    """

    def __init__(self, x_range: tuple[float, float], y_range: tuple[float, float], cells: tuple[int, int]) -> None:
        self.ranges, self.cells = (x_range, y_range), cells
        self.counts = torch.zeros(cells, dtype=torch.int64)

    def add(self, x: Tensor, y: Tensor) -> None:
        """Takes in pairs, of any shape; those with a NaN are left out."""
        x, y = (z.detach().to("cpu", torch.float64).flatten() for z in (x, y))
        known = ~(x.isnan() | y.isnan())
        places = [
            ((z[known] - low) / (high - low) * cells).floor().clamp(0, cells - 1).long()
            for z, (low, high), cells in zip((x, y), self.ranges, self.cells, strict=True)
        ]
        flat = places[0] * self.cells[1] + places[1]
        self.counts += torch.bincount(flat, minlength=self.counts.numel()).view(self.cells)

    def merge(self, other: "Grid") -> None:
        """Takes in all that `other`, of the same cells, has seen."""
        self.counts += other.counts

    @property
    def x(self) -> Tensor:
        """Middles of the cells along x."""
        (low, high), cells = self.ranges[0], self.cells[0]
        return low + (high - low) * (torch.arange(cells, dtype=torch.float64) + 0.5) / cells

    def quantile(self, share: float) -> Tensor:
        """For each cell along x the y that `share` of its pairs do not exceed, linear within a cell; NaN if empty."""
        (low, high), cells = self.ranges[1], self.cells[1]
        running = self.counts.cumsum(dim=1).double()
        total = running[:, -1:]
        wanted = share * total
        cell = (running < wanted).sum(dim=1, keepdim=True).clamp(max=cells - 1)
        before = running.gather(1, cell) - self.counts.gather(1, cell)
        within = (wanted - before) / self.counts.gather(1, cell).clamp(min=1)
        y = low + (high - low) * (cell + within) / cells
        return torch.where(total > 0, y, torch.nan).squeeze(1)
