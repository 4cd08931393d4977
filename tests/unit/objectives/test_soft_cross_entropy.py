"""The distillation loss against its closed forms."""

import math

import pytest
import torch
from torch import Tensor

from mimicry.analysis import attention_entropy, attention_kl
from mimicry.objectives import soft_cross_entropy, soft_cross_entropy_of_logs


def distributions(*shape: int) -> Tensor:
    return (2 * torch.randn(*shape, dtype=torch.float64)).softmax(dim=-1)


def test_distilling_a_teacher_into_itself_costs_exactly_its_mean_entropy() -> None:
    teacher = distributions(2, 3, 4, 9)
    loss = soft_cross_entropy(teacher, teacher)
    torch.testing.assert_close(loss, attention_entropy(teacher).mean(), rtol=1e-14, atol=0)


def test_a_causal_teacher_with_masked_keys_costs_its_mean_entropy_too() -> None:
    triangle = torch.ones(6, 6, dtype=torch.bool).tril()
    teacher = torch.randn(2, 3, 6, 6).double().masked_fill(~triangle, -torch.inf).softmax(dim=-1)
    torch.testing.assert_close(soft_cross_entropy(teacher, teacher), attention_entropy(teacher).mean())


def test_what_it_costs_beyond_the_teachers_entropy_is_the_divergence() -> None:
    teacher, student = distributions(2, 2, 3, 4, 9)
    gap = soft_cross_entropy(teacher, student) - attention_entropy(teacher).mean()
    assert gap > 0.1
    torch.testing.assert_close(gap, attention_kl(teacher, student).mean())


def test_a_uniform_student_costs_log_n() -> None:
    loss = soft_cross_entropy(distributions(2, 3, 4, 8), torch.full((2, 3, 4, 8), 0.125, dtype=torch.float64))
    assert loss.item() == pytest.approx(math.log(8), abs=1e-14)


def test_no_student_costs_less_than_the_teacher_itself() -> None:
    teacher = distributions(2, 3, 4, 9)
    least = soft_cross_entropy(teacher, teacher)
    for share in (0.001, 0.1, 1.0):
        student = (1 - share) * teacher + share * distributions(2, 3, 4, 9)
        assert soft_cross_entropy(teacher, student) > least


def test_padded_queries_are_left_out_of_the_mean() -> None:
    teacher, student = distributions(2, 2, 3, 5, 5)
    query_mask = torch.arange(5) < torch.tensor([[5], [2]])
    per_query = -(teacher * student.log()).sum(dim=-1)
    counted = torch.cat([per_query[0].flatten(), per_query[1, :, :2].flatten()])
    torch.testing.assert_close(soft_cross_entropy(teacher, student, query_mask), counted.mean())


def test_padded_queries_may_hold_anything_and_have_no_gradient() -> None:
    teacher, student = distributions(2, 1, 2, 4, 4)
    query_mask = torch.tensor([[True, True, True, False]])
    other_teacher, other = teacher.clone(), student.clone()
    other_teacher[:, :, 3], other[:, :, 3] = 5.0, 0.0
    other.requires_grad_()
    loss = soft_cross_entropy(other_teacher, other, query_mask)
    torch.testing.assert_close(loss, soft_cross_entropy(teacher, student, query_mask))
    (gradient,) = torch.autograd.grad(loss, other)
    assert (gradient[:, :, 3] == 0).all()
    assert (gradient[:, :, :3] != 0).all()


def test_a_mask_that_keeps_every_query_changes_nothing() -> None:
    teacher, student = distributions(2, 2, 3, 4, 9)
    loss = soft_cross_entropy(teacher, student, torch.ones(2, 4, dtype=torch.bool))
    torch.testing.assert_close(loss, soft_cross_entropy(teacher, student))


def test_the_teacher_gets_no_gradient() -> None:
    teacher, student = distributions(2, 1, 2, 3, 4).requires_grad_().unbind()
    teacher.retain_grad()
    student.retain_grad()
    soft_cross_entropy(teacher, student).backward()
    assert teacher.grad is None
    assert student.grad is not None
    torch.testing.assert_close(student.grad, -teacher.detach() / student.detach() / 6)


@pytest.mark.parametrize("masked", [False, True])
def test_the_gradient_equals_finite_differences(masked: bool) -> None:
    teacher = distributions(1, 2, 3, 4)
    query_mask = torch.tensor([[True, False, True]]) if masked else None
    scores = torch.randn(1, 2, 3, 4, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(lambda x: soft_cross_entropy(teacher, x.softmax(dim=-1), query_mask), scores)


def test_the_gradient_vanishes_where_student_and_teacher_agree() -> None:
    scores = torch.randn(1, 2, 3, 4, dtype=torch.float64, requires_grad=True)
    teacher = scores.detach().softmax(dim=-1)
    (gradient,) = torch.autograd.grad(soft_cross_entropy(teacher, scores.softmax(dim=-1)), scores)
    torch.testing.assert_close(gradient, torch.zeros_like(gradient), rtol=0, atol=1e-15)


def test_weights_that_underflowed_cost_finitely() -> None:
    teacher, student = torch.tensor([0.5, 0.5]).view(1, 1, 1, 2), torch.tensor([1.0, 0.0]).view(1, 1, 1, 2)
    student.requires_grad_()
    loss = soft_cross_entropy(teacher, student)
    assert loss.item() == pytest.approx(-0.5 * math.log(torch.finfo(torch.float32).tiny))
    (gradient,) = torch.autograd.grad(loss, student)
    assert gradient.isfinite().all()


@pytest.mark.parametrize("masked", [False, True])
def test_a_student_may_be_given_by_its_logarithms(masked: bool) -> None:
    teacher, student = distributions(2, 2, 3, 4, 9)
    query_mask = torch.arange(4) < torch.tensor([[4], [2]]) if masked else None
    loss = soft_cross_entropy_of_logs(teacher, student.log(), query_mask)
    torch.testing.assert_close(loss, soft_cross_entropy(teacher, student, query_mask), rtol=1e-14, atol=0)


def test_a_mask_without_queries_is_refused() -> None:
    teacher = distributions(2, 3, 4, 9)
    with pytest.raises(ValueError, match=r"^query_mask must keep at least one query, got none$"):
        soft_cross_entropy(teacher, teacher, torch.zeros(2, 4, dtype=torch.bool))
