"""Draws are those of the bit generator, evenly and without repetition where asked."""

from collections import Counter

import numpy as np
import pytest

from mimicry.data.draws import Draws


def test_the_stream_is_that_of_pcg64_on_every_machine() -> None:
    drawn = Draws(1, 2).fractions(10, 100)
    assert drawn[0, :3].tolist() == [0.44841514333227195, 0.4308819875443376, 0.4199991293921922]
    assert drawn.min() >= 0
    assert drawn.max() < 1


def test_equal_seeds_give_equal_streams_and_others_do_not() -> None:
    assert np.array_equal(Draws(0, 1).integers(100, 50), Draws(0, 1).integers(100, 50))
    assert not np.array_equal(Draws(0, 1).integers(100, 50), Draws(1, 0).integers(100, 50))


def test_integers_are_even_over_their_range() -> None:
    counts = np.bincount(Draws(0).integers(7, 70_000), minlength=7)
    assert len(counts) == 7
    # Five standard deviations.
    assert (abs(counts - 10_000) < 5 * (70_000 * 6 / 49) ** 0.5).all()


def test_limits_may_differ_by_place() -> None:
    drawn = np.stack([Draws(seed).integers(np.array([1, 2, 50]), 3) for seed in range(200)])
    assert drawn.min(axis=0).tolist() == [0, 0, 0]
    assert drawn.max(axis=0)[:2].tolist() == [0, 1]
    assert drawn.max(axis=0)[2] > 40


def test_all_ordered_choices_without_repetition_are_equally_likely() -> None:
    counts = Counter(map(tuple, Draws(0).distinct(4, 12_000, 2).tolist()))
    assert len(counts) == 12
    assert all(abs(count - 1000) < 5 * 1000**0.5 for count in counts.values())
    assert np.array_equal(np.sort(Draws(0).distinct(9, 50, 9), axis=1), np.tile(np.arange(9), (50, 1)))


@pytest.mark.parametrize("count", [1, 3])
def test_weighted_choices_come_one_after_another_in_proportion_to_their_weights(count: int) -> None:
    weights = np.array([1.0, 2.0, 5.0])
    chosen = Draws(0).weighted_distinct(weights, 40_000, count)
    assert all(len(set(row)) == count for row in chosen[:100].tolist())
    first = np.bincount(chosen[:, 0]) / 40_000
    np.testing.assert_allclose(first, weights / 8, atol=0.0125)
    if count == 3:
        # After the heaviest, the others are drawn in proportion to what they weigh.
        second = chosen[chosen[:, 0] == 2, 1]
        assert (second == 1).mean() == pytest.approx(2 / 3, abs=0.02)
