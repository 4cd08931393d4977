import random

import pytest

from mimicry.data.sampler import LengthBucketSampler

# Long-tailed, as sentences are.
LENGTHS = [8 + int(random.Random(index).expovariate(1 / 12)) for index in range(1003)]


def batches(order: list[int], batch_size: int) -> list[list[int]]:
    return [order[start : start + batch_size] for start in range(0, len(order), batch_size)]


def padding(order: list[int], batch_size: int) -> float:
    """Padded positions as a share of all positions."""
    padded = sum(max(LENGTHS[row] for row in batch) * len(batch) for batch in batches(order, batch_size))
    return 1 - sum(LENGTHS) / padded


@pytest.mark.parametrize("batch_size", [1, 7, 16, 1003, 2000])
def test_every_row_comes_once_per_epoch(batch_size: int) -> None:
    sampler = LengthBucketSampler(LENGTHS, batch_size, seed=0)
    for epoch in range(3):
        sampler.set_epoch(epoch)
        assert sorted(sampler) == list(range(len(LENGTHS)))
    assert len(sampler) == len(LENGTHS)


def test_the_order_is_a_function_of_seed_and_epoch() -> None:
    first, second = (LengthBucketSampler(LENGTHS, 16, seed=3) for _ in range(2))
    for epoch in (2, 0, 1):
        first.set_epoch(epoch)
        second.set_epoch(epoch)
        assert list(first) == list(first) == list(second)


def test_the_order_differs_between_epochs_and_seeds() -> None:
    orders = []
    for seed in range(3):
        sampler = LengthBucketSampler(LENGTHS, 16, seed=seed)
        for epoch in range(3):
            sampler.set_epoch(epoch)
            orders.append(tuple(sampler))
    assert len(set(orders)) == 9


def test_buckets_waste_far_less_on_padding_than_a_plain_shuffle() -> None:
    shuffled = random.Random(0).sample(range(len(LENGTHS)), len(LENGTHS))
    assert padding(list(LengthBucketSampler(LENGTHS, 16, seed=0)), 16) < 0.2 * padding(shuffled, 16)


def test_batches_come_in_no_order_of_length() -> None:
    longest = [max(LENGTHS[row] for row in batch) for batch in batches(list(LengthBucketSampler(LENGTHS, 16, 0)), 16)]
    assert longest not in (sorted(longest), sorted(longest, reverse=True))


def test_the_short_last_batch_is_not_always_made_of_the_longest_rows() -> None:
    sampler = LengthBucketSampler(range(10), 4, seed=0)
    rests = set()
    for epoch in range(20):
        sampler.set_epoch(epoch)
        rests.add(tuple(sorted(list(sampler)[-2:])))
    assert len(rests) > 5


def test_a_batch_size_below_one_is_refused() -> None:
    with pytest.raises(ValueError, match=r"^batch_size must be >= 1, got 0$"):
        LengthBucketSampler(LENGTHS, 0, seed=0)
