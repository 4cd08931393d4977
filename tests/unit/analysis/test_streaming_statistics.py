"""Streamed statistics against NumPy over all values at once: exact means, quantiles within the stated error."""

import numpy as np
import pytest
import torch
from torch import Tensor

from mimicry.analysis.streaming import SMALLEST, Grid, HeadMoments, QuantileSketch

SHARES = (0.0, 0.05, 0.5, 0.95, 1.0)


def values(heads: int = 3, items: int = 5000) -> Tensor:
    """Of both signs, over many orders of magnitude, with gaps."""
    drawn = torch.randn(heads, items, dtype=torch.float64) * torch.logspace(-4, 3, items, dtype=torch.float64)
    drawn[:, ::7] = torch.nan
    return drawn


def in_blocks(into: HeadMoments | QuantileSketch, all_values: Tensor, size: int) -> None:
    for block in all_values.split(size, dim=1):
        into.add(block)


@pytest.mark.parametrize("size", [1, 33, 5000])
def test_means_and_deviations_are_those_of_all_values_whatever_the_blocks(size: int) -> None:
    drawn, moments = values(items=500), HeadMoments(3)
    in_blocks(moments, drawn, size)
    np.testing.assert_allclose(moments.mean, np.nanmean(drawn, axis=1), rtol=1e-12)
    np.testing.assert_allclose(moments.std, np.nanstd(drawn, axis=1), rtol=1e-12)
    assert moments.overall == pytest.approx(float(np.nanmean(drawn)), rel=1e-12)
    assert moments.count.tolist() == (~drawn.isnan()).sum(dim=1).tolist()


def test_a_large_mean_costs_no_digits_of_the_deviation() -> None:
    drawn, moments = 1e9 + torch.randn(1, 4000, dtype=torch.float64), HeadMoments(1)
    in_blocks(moments, drawn, 37)
    np.testing.assert_allclose(moments.std, drawn.numpy().std(axis=1), rtol=1e-6)


@pytest.mark.parametrize("accuracy", [0.01, 0.05])
def test_quantiles_are_within_the_stated_relative_error(accuracy: float) -> None:
    drawn, sketch = values(), QuantileSketch(3, accuracy)
    in_blocks(sketch, drawn, 333)
    for share in SHARES:
        expected = np.nanquantile(drawn, share, axis=1, method="lower")
        np.testing.assert_allclose(sketch.quantile(share), expected, rtol=accuracy * (1 + 1e-9), atol=SMALLEST)


@pytest.mark.parametrize("kind", [HeadMoments, QuantileSketch])
def test_two_halves_merge_into_the_whole(kind: type[HeadMoments] | type[QuantileSketch]) -> None:
    drawn = values()
    whole, first, second = (kind(3) for _ in range(3))
    whole.add(drawn)
    first.add(drawn[:, :1234])
    second.add(drawn[:, 1234:])
    first.merge(second)
    if isinstance(whole, HeadMoments):
        np.testing.assert_allclose(first.mean, whole.mean, rtol=1e-12)
        np.testing.assert_allclose(first.std, whole.std, rtol=1e-12)
    else:
        assert torch.equal(first.counts, whole.counts)


def test_memory_does_not_grow_with_the_values() -> None:
    sketch = QuantileSketch(2)
    before = sketch.counts.shape
    for _ in range(50):
        sketch.add(torch.randn(2, 10_000))
    assert sketch.counts.shape == before
    assert sketch.counts.sum() == 1_000_000
    torch.testing.assert_close(sketch.quantile(0.975), torch.full((2,), 1.96, dtype=torch.float64), rtol=0.03, atol=0)


def test_heads_that_saw_nothing_have_no_values() -> None:
    nothing = torch.full((2, 4), torch.nan)
    moments, sketch = HeadMoments(2), QuantileSketch(2)
    moments.add(nothing)
    sketch.add(nothing)
    moments.merge(HeadMoments(2))
    assert moments.mean.isnan().all()
    assert moments.std.isnan().all()
    assert np.isnan(moments.overall)
    assert sketch.quantile(0.5).isnan().all()


def test_half_precision_is_summed_in_float64() -> None:
    moments = HeadMoments(1)
    for _ in range(300):
        moments.add(torch.full((1, 7), 0.1, dtype=torch.bfloat16))
    assert moments.mean.item() == pytest.approx(float(torch.tensor(0.1).bfloat16()), rel=1e-14)


def test_sketches_of_other_accuracy_do_not_merge() -> None:
    with pytest.raises(ValueError, match=r"other must have accuracy 0.02 and 1 heads, got 0.01 and 1"):
        QuantileSketch(1).merge(QuantileSketch(1, accuracy=0.01))
    with pytest.raises(ValueError, match=r"accuracy must be in \(0, 1\), got 1.0"):
        QuantileSketch(1, accuracy=1.0)


def test_a_grid_gives_quantiles_of_y_along_x() -> None:
    x = torch.rand(200_000, dtype=torch.float64) * 4
    y = x + torch.rand(200_000, dtype=torch.float64) - 0.5
    grid, part = Grid((0.0, 4.0), (-1.0, 5.0), (8, 240)), Grid((0.0, 4.0), (-1.0, 5.0), (8, 240))
    grid.add(x[:150_000], y[:150_000])
    part.add(x[150_000:].view(2, -1), y[150_000:].view(2, -1))
    grid.merge(part)
    torch.testing.assert_close(grid.x, torch.arange(8, dtype=torch.float64) / 2 + 0.25)
    for share in (0.1, 0.5, 0.9):
        expected = [float(y[(x >= low) & (x < low + 0.5)].quantile(share)) for low in grid.x - 0.25]
        torch.testing.assert_close(grid.quantile(share), torch.tensor(expected).double(), rtol=0, atol=0.03)


def test_pairs_beyond_a_grid_count_at_its_edge_and_gaps_not_at_all() -> None:
    grid = Grid((0.0, 1.0), (0.0, 1.0), (2, 2))
    grid.add(torch.tensor([-5.0, 9.0, 0.1, torch.nan]), torch.tensor([9.0, -9.0, torch.nan, 0.5]))
    assert grid.counts.tolist() == [[0, 1], [1, 0]]
    assert Grid((0.0, 1.0), (0.0, 1.0), (2, 2)).quantile(0.5).isnan().all()
