"""Divergence from the teacher against its closed forms and against SciPy."""

import math

import numpy as np
import pytest
import scipy.stats
import torch
from torch import Tensor

from mimicry.analysis import attention_kl


def distributions(*shape: int, dtype: torch.dtype = torch.float64) -> Tensor:
    return (3 * torch.randn(*shape, dtype=dtype)).softmax(dim=-1)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32], ids=str)
def test_attention_does_not_diverge_from_itself(dtype: torch.dtype) -> None:
    weights = distributions(2, 3, 4, 9, dtype=dtype)
    torch.testing.assert_close(attention_kl(weights, weights), torch.zeros(2, 3, 4, dtype=dtype), rtol=0, atol=1e-6)


def test_one_hot_attention_does_not_diverge_from_itself() -> None:
    weights = torch.eye(5)[None, None]
    assert torch.equal(attention_kl(weights, weights), torch.zeros(1, 1, 5))


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float64, 1e-12), (torch.float32, 1e-5)], ids=str)
def test_divergence_agrees_with_scipy(dtype: torch.dtype, tolerance: float) -> None:
    teacher, student = distributions(2, 2, 3, 4, 9, dtype=dtype)
    expected = scipy.stats.entropy(teacher.double().numpy(), student.double().numpy(), axis=-1)
    assert expected.min() > 0.1
    np.testing.assert_allclose(attention_kl(teacher, student), expected, rtol=tolerance, atol=tolerance)


def test_a_one_hot_teacher_costs_the_students_surprise() -> None:
    teacher, student = torch.tensor([1.0, 0.0]).view(1, 1, 1, 2), torch.tensor([0.125, 0.875]).view(1, 1, 1, 2)
    assert attention_kl(teacher, student).item() == pytest.approx(math.log(8))


def test_a_uniform_student_costs_log_n_minus_the_teachers_entropy() -> None:
    teacher = distributions(2, 3, 4, 9)
    expected = math.log(9) - scipy.stats.entropy(teacher.numpy(), axis=-1)
    np.testing.assert_allclose(attention_kl(teacher, torch.full_like(teacher, 1 / 9)), expected, rtol=1e-12)


def test_a_student_that_misses_a_key_costs_much_but_finitely() -> None:
    teacher, student = torch.tensor([0.5, 0.5]).view(1, 1, 1, 2), torch.tensor([1.0, 0.0]).view(1, 1, 1, 2)
    expected = math.log(0.5) - 0.5 * math.log(torch.finfo(torch.float32).tiny)
    assert attention_kl(teacher, student).item() == pytest.approx(expected, rel=1e-6)
    assert attention_kl(student, teacher).item() == pytest.approx(math.log(2), rel=1e-6)


def test_masked_keys_contribute_nothing() -> None:
    teacher, student = distributions(2, 2, 3, 4, 9)
    key_mask = torch.arange(11).expand(2, 11) < 9
    rubbish = torch.tensor([0.5, torch.nan]).expand(2, 3, 4, 2)
    padded = [torch.cat([weights, rubbish], dim=-1) for weights in (teacher, student)]
    torch.testing.assert_close(attention_kl(*padded, key_mask), attention_kl(teacher, student), rtol=0, atol=1e-14)


@pytest.mark.parametrize("bad", ["teacher", "student"])
@pytest.mark.parametrize(
    ("row", "message"), [((-0.5, 1.5), "non-negative"), ((0.5, 0.6), "sum to 1"), ((0.5, torch.nan), "sum to 1")]
)
def test_the_side_that_is_no_distribution_is_named(bad: str, row: tuple[float, float], message: str) -> None:
    weights = {name: torch.full((1, 1, 1, 2), 0.5) for name in ("teacher", "student")}
    weights[bad] = torch.tensor(row).view(1, 1, 1, 2)
    with pytest.raises(ValueError, match=rf"^{bad} must (be )?{message}[^\n]*$"):
        attention_kl(**weights)
