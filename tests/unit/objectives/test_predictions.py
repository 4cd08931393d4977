"""The divergence of predictions against torch's own, written out."""

import pytest
import torch
import torch.nn.functional as F
from memory import LargestTensor
from torch import Tensor

from mimicry.objectives import logit_divergence, predictions


def written_out(teacher: Tensor, student: Tensor, mask: Tensor | None, temperature: float) -> Tensor:
    if mask is not None:
        teacher, student = teacher[mask], student[mask]
    log_a, log_b = ((x / temperature).log_softmax(dim=-1).flatten(0, -2) for x in (teacher, student))
    return temperature**2 * F.kl_div(log_b, log_a, log_target=True, reduction="batchmean")


@pytest.mark.parametrize("chunk", [1, 30, 2**22])
@pytest.mark.parametrize("temperature", [1.0, 0.5, 3.0])
@pytest.mark.parametrize("shape", [(2, 5, 11), (4, 7)], ids=["tokens", "rows"])
@pytest.mark.parametrize("masked", [False, True])
def test_value_and_gradient_are_those_of_the_divergence_written_out(
    shape: tuple[int, ...], temperature: float, chunk: int, masked: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(predictions, "CHUNK", chunk)
    teacher, student = 3 * torch.randn(2, *shape, dtype=torch.float64)
    mask = None
    if masked:
        mask = torch.rand(shape[:-1]) < 0.6
        mask.view(-1)[0] = True
    student.requires_grad_()
    actual = logit_divergence(teacher, student, mask, temperature)
    expected = written_out(teacher, student, mask, temperature)
    torch.testing.assert_close(actual, expected, rtol=1e-12, atol=0)
    (gradient,) = torch.autograd.grad(7 * actual, student)
    (reference,) = torch.autograd.grad(7 * expected, student)
    torch.testing.assert_close(gradient, reference, rtol=1e-10, atol=1e-15)


def test_equal_predictions_cost_nothing() -> None:
    z = torch.randn(2, 5, 11, dtype=torch.float64)
    # Logits that differ by a constant per token predict the same.
    assert logit_divergence(z, z + torch.randn(2, 5, 1)).item() == pytest.approx(0, abs=1e-14)


def test_what_stands_in_padded_places_does_not_matter() -> None:
    teacher, student = torch.randn(2, 2, 5, 11)
    mask = torch.arange(5) < torch.tensor([[5], [2]])
    wild = student.masked_fill(~mask[..., None], torch.nan).requires_grad_()
    loss = logit_divergence(teacher.masked_fill(~mask[..., None], torch.inf), wild, mask)
    torch.testing.assert_close(loss.detach(), logit_divergence(teacher, student, mask))
    (gradient,) = torch.autograd.grad(loss, wild)
    assert (gradient[~mask] == 0).all()
    assert gradient.isfinite().all()


# Gradients are rounded to the dtype of the logits, before and after they are scaled; the value is summed in float32.
@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.bfloat16, 8e-3), (torch.float16, 1e-3)])
def test_lower_precision_is_summed_in_float32(dtype: torch.dtype, tolerance: float) -> None:
    teacher, student = torch.randn(2, 3, 50, 200).to(dtype)
    exact = student.double().requires_grad_()
    student.requires_grad_()
    actual, expected = logit_divergence(teacher, student), logit_divergence(teacher.double(), exact)
    assert actual.dtype == torch.float32
    torch.testing.assert_close(actual.double(), expected, rtol=1e-5, atol=0)
    # Far below 1 as they are, gradients arrive scaled when training is in half precision.
    scale = 2.0**14
    gradients = torch.autograd.grad(scale * actual, student) + torch.autograd.grad(scale * expected, exact)
    assert gradients[0].dtype == dtype
    torch.testing.assert_close(gradients[0].double(), gradients[1], rtol=tolerance, atol=1e-3)
    assert gradients[1].abs().median() > 0.1


def test_no_float32_copy_of_all_logits_is_made(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(predictions, "CHUNK", 1000)
    teacher, student = torch.randn(2, 4, 64, 100).bfloat16()
    student.requires_grad_()
    with LargestTensor() as record:
        logit_divergence(teacher, student).backward()
    assert record.by_dtype[torch.float32] <= 1000
    assert record.by_dtype[torch.bfloat16] == student.numel()


def test_without_gradients_none_are_formed() -> None:
    teacher, student = torch.randn(2, 2, 5, 11)
    student.requires_grad_()
    with torch.no_grad():
        assert not logit_divergence(teacher, student).requires_grad


@pytest.mark.parametrize(
    ("shape", "mask", "message"),
    [
        ((4, 1), None, r"^logits must be over at least 2 classes for a divergence of predictions, got 1$"),
        ((4, 3), torch.zeros(4, dtype=torch.bool), r"^token_mask must keep at least one prediction, got none$"),
    ],
)
def test_predictions_that_cannot_differ_or_count_are_refused(
    shape: tuple[int, ...], mask: Tensor | None, message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        logit_divergence(torch.randn(shape), torch.randn(shape), mask)
