"""Total variation, top-k agreement, output cosine and normalised entropy against closed forms and SciPy."""

import math

import numpy as np
import pytest
import scipy.spatial.distance
import torch
from torch import Tensor

from mimicry.analysis import (
    attention_entropy,
    attention_kl,
    normalised_entropy,
    output_cosine,
    top_k_agreement,
    total_variation,
)


def distributions(*shape: int) -> Tensor:
    return (3 * torch.randn(*shape, dtype=torch.float64)).softmax(dim=-1)


def seen(n: int, m: int) -> Tensor:
    return torch.ones(1, 1, n, m, dtype=torch.bool)


def test_total_variation_is_half_the_sum_of_differences_and_obeys_pinsker() -> None:
    teacher, student = distributions(2, 2, 3, 40, 9)
    actual = total_variation(teacher, student)
    expected = 0.5 * np.abs(teacher.numpy() - student.numpy()).sum(-1)
    np.testing.assert_allclose(actual, expected, rtol=1e-12)
    assert (actual <= (attention_kl(teacher, student) / 2).sqrt() + 1e-12).all()


def test_total_variation_is_zero_for_equals_and_one_for_strangers() -> None:
    one_hot = torch.eye(5)[None, None]
    assert torch.equal(total_variation(one_hot, one_hot), torch.zeros(1, 1, 5))
    assert torch.equal(total_variation(one_hot, one_hot.roll(1, dims=-1)), torch.ones(1, 1, 5))


def test_masked_keys_do_not_vary() -> None:
    teacher, student = distributions(2, 2, 3, 4, 9)
    padded = [torch.cat([weights, torch.full((2, 3, 4, 1), torch.nan)], dim=-1) for weights in (teacher, student)]
    key_mask = torch.arange(10).expand(2, 10) < 9
    torch.testing.assert_close(total_variation(*padded, key_mask), total_variation(teacher, student))


def test_top_k_agreement_counts_shared_keys() -> None:
    teacher, student = distributions(2, 2, 3, 40, 11)
    expected = [
        len(set(np.argsort(a)[-4:]) & set(np.argsort(b)[-4:])) / 4
        for a, b in zip(teacher.view(-1, 11).numpy(), student.view(-1, 11).numpy(), strict=True)
    ]
    np.testing.assert_allclose(top_k_agreement(teacher, student, seen(40, 11), 4).flatten(), expected, rtol=1e-12)


def test_keys_that_tie_share_the_last_places() -> None:
    one_hot, uniform = torch.tensor([0.0, 1.0, 0.0, 0.0]).view(1, 1, 1, 4), torch.full((1, 1, 1, 4), 0.25)
    visible = seen(1, 4)
    assert top_k_agreement(one_hot, uniform, visible, 1).item() == 0.25
    # Three keys tie for the second place of the one-hot row.
    assert top_k_agreement(one_hot, uniform, visible, 2).item() == pytest.approx((0.5 + 3 / 3) / 2)
    for weights in (one_hot, uniform, distributions(1, 1, 1, 4)):
        assert top_k_agreement(weights, weights, visible, 2).item() == 1.0
    order = torch.tensor([2, 0, 3, 1])
    assert top_k_agreement(one_hot[..., order], uniform, visible, 2).item() == pytest.approx(0.75)


def test_queries_that_see_no_more_than_k_keys_cannot_disagree_and_have_no_value() -> None:
    teacher, student = distributions(2, 1, 1, 6, 6).tril()
    teacher, student = (weights / weights.sum(dim=-1, keepdim=True) for weights in (teacher, student))
    causal = seen(6, 6).tril()
    agreement = top_k_agreement(teacher, student, causal, 3)[0, 0]
    assert agreement[:3].isnan().all()
    assert agreement[3:].isfinite().all()
    assert top_k_agreement(teacher, student, causal, 7).isnan().all()
    with pytest.raises(ValueError, match="k must be >= 1, got 0"):
        top_k_agreement(teacher, student, causal, 0)


def test_output_cosine_agrees_with_scipy_and_has_no_value_without_direction() -> None:
    teacher, student = torch.randn(2, 2, 3, 4, 8, dtype=torch.float64)
    student[0, 0, 0] = 0
    expected = [
        1 - scipy.spatial.distance.cosine(a, b) if np.any(b) else math.nan
        for a, b in zip(teacher.view(-1, 8).numpy(), student.view(-1, 8).numpy(), strict=True)
    ]
    np.testing.assert_allclose(output_cosine(teacher, student).flatten(), expected, rtol=0, atol=1e-12)
    assert output_cosine(teacher.bfloat16(), -teacher.bfloat16()).dtype == torch.float32
    torch.testing.assert_close(output_cosine(teacher, -2 * teacher), -torch.ones(2, 3, 4, dtype=torch.float64))


def test_normalised_entropy_is_one_for_uniform_rows_of_any_length_and_zero_for_one_hot_ones() -> None:
    causal = seen(6, 6).tril()
    uniform = causal / causal.sum(dim=-1, keepdim=True)
    shares = normalised_entropy(uniform.double(), causal)[0, 0]
    # The first query has nothing to choose.
    assert shares[0].isnan()
    torch.testing.assert_close(shares[1:], torch.ones(5, dtype=torch.float64))
    assert torch.equal(normalised_entropy(torch.eye(6)[None, None], causal)[0, 0, 1:], torch.zeros(5))


def test_normalised_entropy_does_not_change_with_padding() -> None:
    weights = distributions(2, 3, 4, 9)
    padded = torch.nn.functional.pad(weights, (0, 5))
    visible = (torch.arange(14) < 9).expand(2, 1, 4, 14)
    expected = attention_entropy(weights) / math.log(9)
    torch.testing.assert_close(normalised_entropy(padded, visible), expected)
