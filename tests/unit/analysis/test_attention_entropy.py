"""Entropy against its closed forms and against SciPy."""

import math

import numpy as np
import pytest
import scipy.stats
import torch
from torch import Tensor

from mimicry.analysis import attention_entropy


def distributions(*shape: int, dtype: torch.dtype = torch.float64) -> Tensor:
    return (3 * torch.randn(*shape, dtype=dtype)).softmax(dim=-1)


@pytest.mark.parametrize("keys", [1, 2, 7, 512])
def test_uniform_attention_has_entropy_log_n(keys: int) -> None:
    entropy = attention_entropy(torch.full((2, 3, 4, keys), 1 / keys))
    torch.testing.assert_close(entropy, torch.full((2, 3, 4), math.log(keys)))


@pytest.mark.parametrize("keys", [1, 7])
def test_one_hot_attention_has_entropy_zero(keys: int) -> None:
    weights = torch.eye(keys).expand(2, 3, keys, keys)
    assert torch.equal(attention_entropy(weights), torch.zeros(2, 3, keys))


def test_attention_uniform_over_some_keys_has_the_logarithm_of_their_number() -> None:
    weights = torch.ones(6, 6).tril() / torch.arange(1, 7)[:, None]
    torch.testing.assert_close(attention_entropy(weights[None, None])[0, 0], torch.arange(1, 7).log())


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float64, 1e-13), (torch.float32, 1e-6)], ids=str)
def test_entropy_agrees_with_scipy(dtype: torch.dtype, tolerance: float) -> None:
    weights = distributions(2, 3, 4, 9, dtype=dtype)
    actual = attention_entropy(weights)
    assert actual.dtype == dtype
    expected = scipy.stats.entropy(weights.double().numpy(), axis=-1)
    np.testing.assert_allclose(actual, expected, rtol=tolerance, atol=tolerance)


def test_masked_keys_contribute_nothing() -> None:
    weights = distributions(2, 3, 4, 9)
    key_mask = torch.ones(2, 12, dtype=torch.bool)
    key_mask[:, 9:] = False
    # Whatever stands at masked keys, even what is no weight at all.
    padded = torch.cat([weights, torch.tensor([7.0, -1.0, torch.nan]).expand(2, 3, 4, 3)], dim=-1)
    torch.testing.assert_close(attention_entropy(padded, key_mask), attention_entropy(weights), rtol=0, atol=1e-15)


def test_each_example_has_its_own_mask() -> None:
    key_mask = torch.arange(5) < torch.tensor([[5], [2]])
    weights = key_mask / key_mask.sum(dim=-1, keepdim=True)
    entropy = attention_entropy(weights[:, None, None].expand(2, 3, 4, 5), key_mask)
    torch.testing.assert_close(entropy, torch.tensor([5.0, 2.0]).log()[:, None, None].expand(2, 3, 4))


def test_the_gradient_is_that_of_the_formula() -> None:
    weights = distributions(1, 1, 3, 5).requires_grad_()
    (gradient,) = torch.autograd.grad(attention_entropy(weights).sum(), weights)
    torch.testing.assert_close(gradient, -weights.log() - 1)


def bad_rows(name: str) -> Tensor:
    weights = torch.full((1, 2, 3, 4), 0.25)
    changes = {
        "negative": [-0.25, 0.75],
        "too_much": [0.25, 0.2502],
        "too_little": [0.25, 0.2498],
        "nan": [0.25, torch.nan],
    }
    # One row only.
    weights[0, 1, 2, :2] = torch.tensor(changes[name])
    return weights


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("negative", r"^weights must be non-negative, got -0\.25$"),
        ("too_much", r"^weights must sum to 1 over visible keys within 1e-4 in every row, off by 0\.0002$"),
        ("too_little", r"^weights must sum to 1 over visible keys within 1e-4 in every row, off by 0\.0002$"),
        ("nan", r"^weights must sum to 1 over visible keys within 1e-4 in every row, off by nan$"),
    ],
)
def test_rows_that_are_no_distribution_are_refused(name: str, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        attention_entropy(bad_rows(name))


def test_a_row_off_by_less_than_the_tolerance_is_taken_as_given() -> None:
    weights = torch.tensor([0.5, 0.50005], dtype=torch.float64).view(1, 1, 1, 2)
    expected = -(0.5 * math.log(0.5) + 0.50005 * math.log(0.50005))
    assert attention_entropy(weights).item() == pytest.approx(expected, abs=1e-15)


def test_weight_on_masked_keys_is_refused() -> None:
    key_mask = torch.tensor([[True, True, True, False]])
    with pytest.raises(ValueError, match=r"off by 0\.25$"):
        attention_entropy(torch.full((1, 1, 1, 4), 0.25), key_mask)


def test_no_queries_have_no_entropy() -> None:
    assert attention_entropy(torch.zeros(2, 3, 0, 5)).shape == (2, 3, 0)
