import numpy as np
import pytest
import torch

from mimicry.training.throughput import POINTS, LossCurve, batch_tokens, peak_flops_per_s


@pytest.mark.parametrize("steps", [1, 99, 100, 101, 1000, 4321])
def test_a_curve_of_any_length_has_few_points_that_are_the_means_of_its_stretches(steps: int) -> None:
    losses = np.random.default_rng(0).uniform(1, 2, steps)
    curve = LossCurve()
    for loss in losses:
        curve.add(float(loss))
    ends = [end for end, _ in curve.curve]
    assert len(ends) <= POINTS
    assert ends[-1] == steps
    expected = [part.mean() for part in np.split(losses, ends[:-1])]
    assert [loss for _, loss in curve.curve] == pytest.approx(expected, rel=1e-4)


def test_a_curve_goes_on_from_its_state() -> None:
    whole, first, second = LossCurve(), LossCurve(), LossCurve()
    for step in range(250):
        whole.add(1 / (step + 1))
        if step < 133:
            first.add(1 / (step + 1))
    second.load_state_dict(first.state_dict())
    for step in range(133, 250):
        second.add(1 / (step + 1))
    assert second.curve == whole.curve


def test_tokens_are_those_of_all_sequences_without_padding() -> None:
    ids, mask = torch.zeros(2, 5, dtype=torch.long), torch.tensor([[1, 1, 1, 0, 0], [1, 1, 1, 1, 1]])
    assert batch_tokens({"input_ids": ids}) == 10
    assert batch_tokens({"input_ids": ids, "attention_mask": mask}) == 8
    pair = {"pair_input_ids": ids, "pair_attention_mask": mask}
    assert batch_tokens({"input_ids": ids, **pair}) == 18
    assert batch_tokens({"pixel_values": torch.zeros(2, 3, 8, 8)}) == 0


def test_the_peak_is_measured_once_and_leaves_random_numbers_alone() -> None:
    before = torch.get_rng_state()
    peak = peak_flops_per_s(torch.device("cpu"), "32-true")
    # Any machine that runs this does a billion operations a second, and none a quadrillion.
    assert 1e9 < peak < 1e15
    assert peak_flops_per_s(torch.device("cpu"), "32-true") == peak
    assert torch.equal(torch.get_rng_state(), before)
