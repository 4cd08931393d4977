"""Whether attention weights rise with the dot product of query and key: rank correlations and isotonic fits.

Every measure takes rows over keys, one for each query, and says how the values rise with the scores in each row:
`scores` are dot products of the query with the keys; `values` its weights or any increasing function of them, such as
their logarithms, which have the same ranks, as scores scaled by a positive number have; `visible` are the keys that the
query may attend to; and `tie` is that of `average_ranks`.
Source: arXiv 2402.04347, Sec. 3.2 (dot-product monotonicity), which shows scatter plots and gives no number.
"""

import math
from collections.abc import Callable

import torch

from mimicry.shapes import PerRow, RowValues, RowVisible

# Pairs of keys held at a time, of all rows together.
PAIRS = 2**22


def average_ranks(values: RowValues, visible: RowVisible, tie: float = 0.0) -> RowValues:
    """Ranks 1, 2, ... of the visible values of each row, in float64; equal ones share the mean of their ranks.

    Args:
        values: rows to rank; finite where visible.
        visible: entries that count.
        tie: neighbours in order that differ by no more are equal, >= 0.

    Returns:
        Ranks, 0 for entries that are not visible.
    """
    visible = visible.expand(values.shape)
    if values.shape[-1] == 0:
        return values.double()
    # Invisible ones stand at the end, in a run of their own.
    ordered, order = values.masked_fill(~visible, torch.inf).sort(dim=-1)
    starts = torch.ones_like(visible)
    starts[..., 1:] = (ordered[..., 1:] - ordered[..., :-1]) > tie
    position = torch.arange(values.shape[-1], device=values.device).expand(values.shape)
    first = torch.where(starts, position, 0).cummax(dim=-1).values
    ends = torch.ones_like(visible)
    ends[..., :-1] = starts[..., 1:]
    last = torch.where(ends, position, values.shape[-1] - 1).flip(-1).cummin(dim=-1).values.flip(-1)
    ranks = torch.empty_like(ordered, dtype=torch.float64)
    ranks.scatter_(-1, order, (first + last).double() / 2 + 1)
    return ranks.masked_fill(~visible, 0.0)


def spearman(scores: RowValues, values: RowValues, visible: RowVisible, tie: float = 0.0) -> PerRow:
    """Spearman's rho of each row: the correlation of average ranks.

    Returns:
        Between -1 and 1, in float64; 1 when values rise whenever scores do. NaN for rows of fewer than two visible
        keys, and where all scores or all values are equal: they have no order to compare.
    """
    visible = visible.expand(scores.shape)
    return _correlation(average_ranks(scores, visible, tie), average_ranks(values, visible, tie), visible)


def _correlation(x: RowValues, y: RowValues, visible: RowVisible) -> PerRow:
    count = visible.sum(dim=-1, keepdim=True).clamp(min=1)
    x, y = ((z - z.sum(dim=-1, keepdim=True) / count).masked_fill(~visible, 0.0) for z in (x, y))
    spread = (x.square().sum(dim=-1) * y.square().sum(dim=-1)).sqrt()
    return torch.where(spread > 0, (x * y).sum(dim=-1) / spread, torch.nan).clamp(-1.0, 1.0)


def kendall(scores: RowValues, values: RowValues, visible: RowVisible, tie: float = 0.0) -> PerRow:
    """Kendall's tau-b of each row: concordant less discordant pairs of keys, with both sides' ties discounted.

    Takes time quadratic in the number of keys; memory is bounded.

    Returns:
        Between -1 and 1, in float64; NaN as for `spearman`.
    """
    visible = visible.expand(scores.shape)
    return _over_pairs(_tau, average_ranks(scores, visible, tie), average_ranks(values, visible, tie), visible)


def _tau(x: RowValues, y: RowValues, visible: RowVisible) -> PerRow:
    # NaN is above nothing and below nothing; a byte for each pair instead of a number.
    x, y = (z.masked_fill(~visible, torch.nan) for z in (x, y))
    x_above, y_above = (z[..., :, None] > z[..., None, :] for z in (x, y))
    concordant = (x_above & y_above).sum(dim=(-2, -1)).double()
    discordant = (x_above & y_above.mT).sum(dim=(-2, -1))
    untied = x_above.sum(dim=(-2, -1)).double() * y_above.sum(dim=(-2, -1))
    return torch.where(untied > 0, (concordant - discordant) / untied.sqrt(), torch.nan)


def isotonic_r2(scores: RowValues, values: RowValues, visible: RowVisible, tie: float = 0.0) -> PerRow:
    """R² of each row's best fit of the values by a function that never falls as scores rise.

    With keys in order of their scores, the fit at key i is the largest, over starts j <= i, of the smallest mean of
    values j .. l over ends l >= i; keys whose scores tie stand on one side of either bound. It equals scikit-learn's
    `IsotonicRegression`, whose pool of adjacent violators runs row by row, and takes time quadratic in the keys.

    Unlike ranks the fit depends on what the values are, such as log weights: they are finite where visible.

    Returns:
        Between 0 and 1, in float64: 1 when values never fall as scores rise; NaN where all values are equal.
    """
    visible = visible.expand(scores.shape)
    ranks, order = average_ranks(scores, visible, tie).masked_fill(~visible, torch.inf).sort(dim=-1)
    y = values.double().masked_fill(~visible, 0.0).gather(-1, order)
    return _over_pairs(_isotonic_r2, ranks, y, visible.gather(-1, order))


def _over_pairs(measure: Callable[..., PerRow], x: RowValues, y: RowValues, visible: RowVisible) -> PerRow:
    """`measure` of as many rows at a time as keep PAIRS pairs of keys in memory."""
    keys = x.shape[-1]
    rows = math.prod(x.shape[:-1])
    step = max(1, PAIRS // max(1, keys * keys))
    flat = [z.reshape(rows, keys) for z in (x, y, visible)]
    found = [measure(*(z[start : start + step] for z in flat)) for start in range(0, rows if keys else 0, step)]
    return torch.cat(found).view(x.shape[:-1]) if found else y.new_full(x.shape[:-1], torch.nan)


def _isotonic_r2(ranks: RowValues, y: RowValues, visible: RowVisible) -> PerRow:
    """Of rows in order of their ranks, the visible keys first."""
    keys = y.shape[-1]
    changes = ranks[:, 1:] != ranks[:, :-1]
    edge = torch.ones_like(visible[:, :1])
    starts, ends = torch.cat([edge, changes], dim=1) & visible, torch.cat([changes, edge], dim=1) & visible
    # Mean of values j .. l at row j; allowed only from the start of a run of ties to the end of one.
    sums = torch.nn.functional.pad(y.cumsum(dim=1), (1, 0))
    # Columns run from the last key to the first, so that running minima are over ends at or after a key.
    position = torch.arange(keys, device=y.device)
    length = position.flip(0) - position[:, None] + 1
    means = (sums[:, 1:].flip(1)[:, None, :] - sums[:, :-1, None]).div_(length.clamp(min=1))
    means.masked_fill_((length < 1) | ~ends.flip(1)[:, None, :], torch.inf)
    smallest = means.cummin(dim=-1).values
    smallest.masked_fill_((length < 1) | ~starts[:, :, None], -torch.inf)
    fit = smallest.amax(dim=1).flip(1)
    count = visible.sum(dim=1, keepdim=True).clamp(min=1)
    missed = (y - fit).masked_fill(~visible, 0.0).square().sum(dim=1)
    total = (y - y.sum(dim=1, keepdim=True) / count).masked_fill(~visible, 0.0).square().sum(dim=1)
    return torch.where(total > 0, 1 - missed / total, torch.nan).clamp(0.0, 1.0)
