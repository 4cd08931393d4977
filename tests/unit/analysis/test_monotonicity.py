"""Rank correlations and isotonic fits against SciPy and scikit-learn, row by row, and against what must hold."""

import math
from collections.abc import Callable

import numpy as np
import pytest
import scipy.stats
import torch
from sklearn.isotonic import IsotonicRegression
from torch import Tensor

from mimicry.analysis import isotonic_r2, kendall, monotonicity, spearman
from mimicry.analysis.monotonicity import average_ranks

ROWS, KEYS = 40, 17


def reference_r2(x: np.ndarray, y: np.ndarray) -> float:
    fit = IsotonicRegression().fit_transform(x, y)
    return 1 - float(((y - fit) ** 2).sum() / ((y - y.mean()) ** 2).sum())


REFERENCES: dict[Callable[..., Tensor], Callable[[np.ndarray, np.ndarray], float]] = {
    spearman: lambda x, y: scipy.stats.spearmanr(x, y).statistic,
    kendall: lambda x, y: scipy.stats.kendalltau(x, y).statistic,
    isotonic_r2: reference_r2,
}
MEASURES = pytest.mark.parametrize("measure", REFERENCES, ids=lambda measure: measure.__name__)


def noisy(levels: int | None) -> tuple[Tensor, Tensor]:
    """Scores and values that rise with them on the whole; with `levels` both have many ties."""
    x = torch.randn(ROWS, KEYS, dtype=torch.float64)
    y = x + torch.randn(ROWS, KEYS, dtype=torch.float64)
    return (x, y) if levels is None else ((x * levels).round(), (y * levels).round())


def all_visible(x: Tensor) -> Tensor:
    return torch.ones_like(x, dtype=torch.bool)


@MEASURES
@pytest.mark.parametrize("levels", [None, 1, 2], ids=["continuous", "mostly ties", "ties"])
def test_random_rows_agree_with_the_reference(measure: Callable[..., Tensor], levels: int | None) -> None:
    x, y = noisy(levels)
    expected = [REFERENCES[measure](*row) for row in zip(x.numpy(), y.numpy(), strict=True)]
    np.testing.assert_allclose(measure(x, y, all_visible(x)), expected, rtol=0, atol=1e-12)


@MEASURES
def test_hidden_keys_count_for_nothing_whatever_stands_there(measure: Callable[..., Tensor]) -> None:
    x, y = noisy(1)
    visible = torch.rand(ROWS, KEYS) < 0.7
    expected = [
        REFERENCES[measure](x[row, seen].numpy(), y[row, seen].numpy()) for row, seen in enumerate(visible.unbind())
    ]
    rubbish = torch.tensor([torch.nan, torch.inf, -7.0, 1e9], dtype=torch.float64)
    hidden = rubbish[torch.randint(4, (2, ROWS, KEYS))]
    actual = measure(torch.where(visible, x, hidden[0]), torch.where(visible, y, hidden[1]), visible)
    np.testing.assert_allclose(actual, expected, rtol=0, atol=1e-12)


@MEASURES
def test_values_that_rise_with_the_scores_give_one(measure: Callable[..., Tensor]) -> None:
    x, _ = noisy(None)
    for rising in (x, x.exp(), x**3, x.log_softmax(dim=-1)):
        torch.testing.assert_close(measure(x, rising, all_visible(x)), torch.ones(ROWS, dtype=torch.float64))


def test_values_that_fall_give_minus_one_and_no_fit() -> None:
    x, _ = noisy(None)
    torch.testing.assert_close(spearman(x, -x, all_visible(x)), -torch.ones(ROWS, dtype=torch.float64))
    torch.testing.assert_close(kendall(x, -x, all_visible(x)), -torch.ones(ROWS, dtype=torch.float64))
    torch.testing.assert_close(
        isotonic_r2(x, -x, all_visible(x)), torch.zeros(ROWS, dtype=torch.float64), rtol=0, atol=1e-12
    )


@MEASURES
def test_without_order_there_is_no_value(measure: Callable[..., Tensor]) -> None:
    x, y = noisy(None)
    assert measure(x, torch.zeros_like(y), all_visible(x)).isnan().all()
    one = torch.zeros_like(x, dtype=torch.bool)
    one[:, 3] = True
    assert measure(x, y, one).isnan().all()
    assert measure(x, y, torch.zeros_like(one)).isnan().all()


@MEASURES
def test_the_order_of_keys_and_the_size_of_a_block_do_not_matter(
    measure: Callable[..., Tensor], monkeypatch: pytest.MonkeyPatch
) -> None:
    x, y = noisy(1)
    shuffled = torch.randperm(KEYS)
    whole = measure(x, y, all_visible(x))
    torch.testing.assert_close(measure(x[:, shuffled], y[:, shuffled], all_visible(x)), whole)
    monkeypatch.setattr(monotonicity, "PAIRS", 3 * KEYS * KEYS)
    assert torch.equal(measure(x, y, all_visible(x)), whole)


@MEASURES
def test_leading_axes_are_kept_and_masks_broadcast(measure: Callable[..., Tensor]) -> None:
    x, y = (z.view(2, 4, 5, KEYS) for z in noisy(None))
    visible = torch.rand(2, 1, 5, KEYS) < 0.8
    flat = [z.reshape(-1, KEYS) for z in (x, y, visible.expand(2, 4, 5, KEYS))]
    assert torch.equal(measure(x, y, visible), measure(*flat).view(2, 4, 5))


def test_ranks_of_ties_are_their_mean() -> None:
    values = torch.tensor([[3.0, 1.0, 3.0, 2.0, 3.0, 9.0]])
    visible = torch.tensor([[True, True, True, True, True, False]])
    assert average_ranks(values, visible).tolist() == [[4.0, 1.0, 4.0, 2.0, 4.0, 0.0]]


def test_neighbours_closer_than_the_tolerance_are_ties() -> None:
    values = torch.tensor([1.0, 1.0 + 1e-12, 2.0], dtype=torch.float64)
    assert average_ranks(values, all_visible(values), tie=1e-9).tolist() == [1.5, 1.5, 3.0]
    assert average_ranks(values, all_visible(values)).tolist() == [1.0, 2.0, 3.0]


def test_a_row_of_two_keys_is_right_or_wrong() -> None:
    x, y = torch.tensor([[0.0, 1.0], [0.0, 1.0]]), torch.tensor([[0.2, 0.8], [0.8, 0.2]])
    assert spearman(x, y, all_visible(x)).tolist() == [1.0, -1.0]
    assert kendall(x, y, all_visible(x)).tolist() == [1.0, -1.0]
    assert isotonic_r2(x, y, all_visible(x)).tolist() == pytest.approx([1.0, 0.0], abs=1e-12)


def test_no_rows_and_no_keys_give_no_values() -> None:
    for measure in REFERENCES:
        assert measure(torch.zeros(0, 5), torch.zeros(0, 5), torch.zeros(0, 5, dtype=torch.bool)).shape == (0,)
        empty = measure(torch.zeros(2, 0), torch.zeros(2, 0), torch.zeros(2, 0, dtype=torch.bool))
        assert empty.isnan().all()
    assert math.isnan(float(spearman(torch.ones(1), torch.ones(1), torch.ones(1, dtype=torch.bool))))
