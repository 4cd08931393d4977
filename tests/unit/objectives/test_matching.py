"""Errors of outputs and of hidden states against their definitions."""

import pytest
import torch
from torch import Tensor

from mimicry.objectives import relative_error, unexplained_variance


def outputs(*more: int) -> Tensor:
    """Outputs (batch, heads, tokens, width) whose heads differ in size and mean."""
    sizes, means = torch.tensor([0.1, 1.0, 30.0]), torch.tensor([5.0, 0.0, -2.0])
    return (torch.randn(*more, 2, 3, 5, 4) * sizes[:, None, None] + means[:, None, None]).double()


MASK = torch.arange(5) < torch.tensor([[5], [2]])


def test_an_exact_student_leaves_nothing_unexplained() -> None:
    y = outputs()
    assert unexplained_variance(y, y.clone()) == 0
    assert relative_error(y[:, 0], y[:, 0].clone()) == 0


def test_the_mean_of_each_head_explains_nothing() -> None:
    y = outputs()
    mean = y.mean(dim=(0, 2), keepdim=True).expand_as(y)
    torch.testing.assert_close(unexplained_variance(y, mean), torch.ones((), dtype=torch.float64))


@pytest.mark.parametrize("masked", [False, True])
def test_the_unexplained_variance_is_one_minus_r_squared(masked: bool) -> None:
    y, other = outputs(2)
    rows = MASK if masked else torch.ones_like(MASK)
    # Tokens that count, one row each: (tokens, heads * width).
    a, b = (x.transpose(1, 2)[rows].flatten(1) for x in (y, other))
    expected = (a - b).square().sum() / (a - a.mean(dim=0)).square().sum()
    torch.testing.assert_close(unexplained_variance(y, other, rows if masked else None), expected)


def test_the_unexplained_variance_does_not_depend_on_units() -> None:
    y, other = outputs(2)
    torch.testing.assert_close(unexplained_variance(100 * y, 100 * other), unexplained_variance(y, other))


@pytest.mark.parametrize("masked", [False, True])
def test_the_relative_error_is_the_mean_over_tokens_of_each_ones_own(masked: bool) -> None:
    h, other = outputs(2)[:, :, 0]
    # A token a thousand times as large weighs as much as another.
    h[0, 0] *= 1000
    rows = MASK if masked else torch.ones_like(MASK)
    expected = [(other[i, j] - h[i, j]).square().sum() / h[i, j].square().sum() for i, j in rows.nonzero().tolist()]
    torch.testing.assert_close(relative_error(h, other, rows if masked else None), torch.stack(expected).mean())


@pytest.mark.parametrize("measure", [unexplained_variance, relative_error])
def test_what_stands_in_padded_places_does_not_matter_and_gets_no_gradient(measure: object) -> None:
    y, other = outputs(2) if measure is unexplained_variance else outputs(2)[:, :, 0]
    padded = ~MASK[:, None, :, None] if y.ndim == 4 else ~MASK[:, :, None]
    expected = measure(y, other, MASK)
    wild = other.masked_fill(padded, torch.inf).requires_grad_()
    loss = measure(y.masked_fill(padded, 1e30), wild, MASK)
    torch.testing.assert_close(loss, expected)
    (gradient,) = torch.autograd.grad(loss, wild)
    assert (gradient.masked_select(padded) == 0).all()
    assert (gradient.masked_select(~padded) != 0).all()


@pytest.mark.parametrize("masked", [False, True])
@pytest.mark.parametrize("measure", [unexplained_variance, relative_error])
def test_gradients_equal_finite_differences_and_the_teacher_gets_none(measure: object, masked: bool) -> None:
    y, other = outputs(2) if measure is unexplained_variance else outputs(2)[:, :, 0]
    mask = MASK if masked else None
    assert torch.autograd.gradcheck(lambda x: measure(y, x, mask), other.requires_grad_())
    y.requires_grad_()
    measure(y, other, mask).backward()
    assert y.grad is None


def test_outputs_that_do_not_vary_cost_finitely() -> None:
    one = outputs()[:1, :, :1].float()
    # A single token attends to itself in teacher and student alike, up to rounding.
    assert unexplained_variance(one, one * (1 + 1e-7)) < 1e-6
    nothing = torch.zeros(1, 3, 1, 4)
    assert unexplained_variance(nothing, nothing) == 0
    assert relative_error(nothing[:, 0], nothing[:, 0]) == 0


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_lower_precision_is_summed_in_float32(dtype: torch.dtype) -> None:
    y, other = (torch.randn(2, 2, 3, 500, 4) + 3).to(dtype)
    value = unexplained_variance(y, other)
    assert value.dtype == torch.float32
    torch.testing.assert_close(value.double(), unexplained_variance(y.double(), other.double()), rtol=1e-5, atol=0)
    torch.testing.assert_close(
        relative_error(y[:, 0], other[:, 0]).double(),
        relative_error(y[:, 0].double(), other[:, 0].double()),
        rtol=1e-5,
        atol=0,
    )


@pytest.mark.parametrize("measure", [unexplained_variance, relative_error])
def test_a_mask_without_tokens_is_refused(measure: object) -> None:
    y = outputs() if measure is unexplained_variance else outputs()[:, 0]
    with pytest.raises(ValueError, match=r"^query_mask must keep at least one query, got none$"):
        measure(y, y, torch.zeros(2, 5, dtype=torch.bool))
