"""What seeds say of a mean: its 95 % confidence interval."""

import math
import statistics
from collections.abc import Sequence
from dataclasses import dataclass

from scipy.special import stdtrit

LEVEL = 0.95


@dataclass(frozen=True)
class Interval:
    """A mean of `n` values, and half the width of its interval; None for a single value, which has no spread."""

    mean: float
    half: float | None
    n: int


def interval(values: Sequence[float]) -> Interval:
    """Mean ± t · s / √n, with Student's t for n - 1 degrees of freedom and the sample standard deviation s.

    Args:
        values: at least one, finite, drawn independently.

    Raises:
        ValueError: for no value at all, or one that is not finite.
    """
    if not values or not all(map(math.isfinite, values)):
        raise ValueError(f"values must be finite numbers, at least one, got {list(values)}")
    mean, n = statistics.fmean(values), len(values)
    half = None if n == 1 else student_t(n - 1) * statistics.stdev(values) / math.sqrt(n)
    return Interval(mean, half, n)


def student_t(degrees: int) -> float:
    """Two-sided 95 % quantile of Student's t distribution."""
    return float(stdtrit(degrees, (1 + LEVEL) / 2))
