"""The streamed distillation loss against the one that stores all weights."""

import functools
from typing import Any

import pytest
import torch
from memory import LargestTensor
from torch import Tensor

from mimicry.attention import AttentionDims, SoftmaxAttention
from mimicry.objectives import (
    soft_cross_entropy,
    soft_cross_entropy_of_logs,
    streamed,
    streamed_soft_cross_entropy,
    tiles,
)

HEADS, WIDTH, FEATURES, BLOCK = 6, 8, 10, 4

close = functools.partial(torch.testing.assert_close, rtol=1e-10, atol=1e-12)


def states(n: int, m: int, groups: tuple[int, int] = (1, 1), batch: int = 3) -> list[Tensor]:
    """q, k, and positive features of both; groups of query heads share a head of k and of its features."""
    q, k = torch.randn(batch, HEADS, n, WIDTH), torch.randn(batch, HEADS // groups[0], m, WIDTH)
    phi_q, phi_k = torch.randn(batch, HEADS, n, FEATURES), torch.randn(batch, HEADS // groups[1], m, FEATURES)
    return [2 * q.double(), 2 * k.double(), phi_q.double().exp(), phi_k.double().exp()]


def stored(
    q: Tensor, k: Tensor, phi_q: Tensor, phi_k: Tensor, causal: bool, key_mask: Any = None, query_mask: Any = None
) -> tuple[Tensor, Tensor]:
    """Loss and entropy from weights written out."""
    k, phi_k = (x.repeat_interleave(q.shape[1] // x.shape[1], dim=1) for x in (k, phi_k))
    attn = SoftmaxAttention(AttentionDims(q.shape[1], q.shape[3], causal))
    teacher, visible = attn.weights(q, k, key_mask), attn.visible(q, k, key_mask)
    scores = phi_q @ phi_k.transpose(-1, -2)
    scores = scores if visible is None else scores * visible
    student = scores / scores.sum(dim=-1, keepdim=True).clamp(min=torch.finfo(scores.dtype).tiny)
    return soft_cross_entropy(teacher, student, query_mask), soft_cross_entropy(teacher, teacher, query_mask)


def masks(kind: str, n: int, m: int) -> dict[str, Tensor]:
    """Masks of three examples; queries are taken for the last positions."""
    position = torch.arange(m)
    lengths = torch.tensor([m, (m + 1) // 2, 1])[:, None]
    holes = torch.rand(3, m) < 0.5
    holes[:, m // 2] = True
    blind = torch.stack([torch.zeros(m, dtype=torch.bool), position >= m // 2, position < 1])
    keys = {"right": position < lengths, "left": position >= m - lengths, "holes": holes, "blind": blind}
    if kind == "full":
        return {}
    if kind == "queries":
        return {"query_mask": (torch.rand(3, n) < 0.5) | (torch.arange(n) == 0)}
    queries = {"query_mask": keys[kind][:, m - n :]} if keys[kind][:, m - n :].any() else {}
    return {"key_mask": keys[kind]} | queries


def both(given: list[Tensor], causal: bool, block: int = BLOCK, **hidden: Tensor) -> None:
    """Asserts that loss, entropy and gradients are those of the stored form, with gradients that arrive scaled."""
    *teacher, phi_q, phi_k = given
    leaves = [phi_q.requires_grad_(), phi_k.requires_grad_()]
    loss, entropy = streamed_soft_cross_entropy(*teacher, *leaves, causal, block=block, **hidden)
    expected, least = stored(*teacher, *leaves, causal, **hidden)
    close(loss, expected)
    close(entropy, least)
    assert not entropy.requires_grad
    references = torch.autograd.grad(3 * expected, leaves)
    for gradient, reference in zip(torch.autograd.grad(3 * loss, leaves), references, strict=True):
        close(gradient, reference)


@pytest.mark.parametrize("causal", [False, True], ids=["bidirectional", "causal"])
@pytest.mark.parametrize("kind", ["full", "right", "left", "holes", "blind", "queries"])
@pytest.mark.parametrize("n", [1, BLOCK - 1, BLOCK, BLOCK + 1, 3 * BLOCK + 2])
@pytest.mark.parametrize("past", [0, 1, BLOCK + 2])
def test_loss_and_gradients_equal_those_of_stored_weights(causal: bool, kind: str, n: int, past: int) -> None:
    both(states(n, n + past), causal, **masks(kind, n, n + past))


@pytest.mark.parametrize("causal", [False, True], ids=["bidirectional", "causal"])
@pytest.mark.parametrize("groups", [(2, 1), (1, 3), (3, 3), (2, 3), (6, 1)], ids=str)
@pytest.mark.parametrize("kind", ["full", "holes"])
@pytest.mark.parametrize("pairs", [1, 100, 2**18])
def test_heads_may_share_keys_and_go_together_in_any_number(
    causal: bool, groups: tuple[int, int], kind: str, pairs: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tiles, "PAIRS", pairs)
    both(states(11, 11, groups), causal, **masks(kind, 11, 11))


@pytest.mark.parametrize("causal", [False, True], ids=["bidirectional", "causal"])
def test_masks_of_keys_and_of_queries_need_not_agree(causal: bool) -> None:
    key_mask, query_mask = torch.rand(2, 3, 15) < 0.6
    key_mask[0] = False
    both(states(15, 15), causal, key_mask=key_mask, query_mask=query_mask)
    both(states(15, 15), causal, key_mask=key_mask)


def test_bidirectional_queries_may_outnumber_the_keys() -> None:
    both(states(11, 3), causal=False)


@pytest.mark.parametrize("causal", [False, True], ids=["bidirectional", "causal"])
def test_blocks_of_the_default_size_give_the_same(causal: bool) -> None:
    both(states(300, 300, batch=1), causal, block=streamed.BLOCK)


def test_transposed_states_are_welcome() -> None:
    both([x.transpose(1, 2).contiguous().transpose(1, 2) for x in states(11, 11)], causal=True)


# Both sides read the same rounded inputs and sum in float32, features of order 1 to 10.
@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float32, 2e-6), (torch.bfloat16, 4e-3), (torch.float16, 5e-4)])
@pytest.mark.parametrize("causal", [False, True], ids=["bidirectional", "causal"])
def test_lower_precision_is_summed_in_float32(dtype: torch.dtype, tolerance: float, causal: bool) -> None:
    q, k, phi_q, phi_k = (x.to(dtype) for x in states(300, 300, batch=1))
    leaves = [phi_q.requires_grad_(), phi_k.requires_grad_()]
    exact = [x.detach().double().requires_grad_() for x in leaves]
    loss, entropy = streamed_soft_cross_entropy(q, k, *leaves, causal)
    expected, least = stored(q.double(), k.double(), *exact, causal)
    assert loss.dtype == entropy.dtype == torch.float32
    torch.testing.assert_close(loss.double(), expected, rtol=1e-6, atol=0)
    torch.testing.assert_close(entropy.double(), least, rtol=1e-6, atol=0)
    references = torch.autograd.grad(1000 * expected, exact)
    # Gradients are rounded once, to the dtype of the features.
    for gradient, reference in zip(torch.autograd.grad(1000 * loss, leaves), references, strict=True):
        assert gradient.dtype == dtype
        close(gradient.double(), reference, rtol=tolerance, atol=tolerance * float(reference.abs().max()))


def test_autocast_does_not_reach_inside() -> None:
    given = [x.float() for x in states(9, 9)]
    expected = streamed_soft_cross_entropy(*given, causal=True)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        torch.testing.assert_close(streamed_soft_cross_entropy(*given, causal=True), expected, rtol=0, atol=0)


@pytest.mark.parametrize("size", [1e-20, 1e-30, 1e-40, 0.0])
def test_scores_that_underflow_cost_finitely_and_what_their_floor_says(size: float) -> None:
    q, k, phi_q, phi_k = (x.float() for x in states(9, 9))
    # Products of two keys with every query are around the smallest number, those of others far above it.
    phi_k[:, :, 3:5] *= size
    phi_q *= 1e-15
    teacher = SoftmaxAttention(AttentionDims(HEADS, WIDTH, causal=False)).weights(q, k)
    leaves = [phi_q.requires_grad_(), phi_k.requires_grad_()]
    loss, _ = streamed_soft_cross_entropy(q, k, *leaves, causal=False)
    exact = phi_q.detach().double() @ phi_k.detach().double().transpose(-1, -2)
    log_scores = exact.clamp(min=torch.finfo(torch.float32).tiny).log()
    expected = soft_cross_entropy_of_logs(teacher.double(), log_scores - exact.sum(dim=-1, keepdim=True).log())
    torch.testing.assert_close(loss.double(), expected, rtol=1e-5, atol=0)
    assert all(gradient.isfinite().all() for gradient in torch.autograd.grad(loss, leaves))


def test_features_that_are_all_zero_cost_finitely() -> None:
    q, k, phi_q, phi_k = (x.float() for x in states(9, 9))
    leaves = [phi_q.zero_().requires_grad_(), phi_k.zero_().requires_grad_()]
    loss, _ = streamed_soft_cross_entropy(q, k, *leaves, causal=True)
    assert loss.isfinite()
    assert all((gradient == 0).all() for gradient in torch.autograd.grad(loss, leaves))


@pytest.mark.parametrize("causal", [False, True], ids=["bidirectional", "causal"])
def test_the_teachers_own_kernel_costs_its_entropy(causal: bool) -> None:
    # One-hot keys: features hold exp(score) of every pair.
    q = torch.randn(1, 2, 7, 7, dtype=torch.float64)
    k = torch.eye(7, dtype=torch.float64).expand(1, 2, 7, 7)
    loss, entropy = streamed_soft_cross_entropy(q, k, (q / 7**0.5).exp(), k, causal)
    close(loss, entropy)


def test_scores_of_any_size_leave_the_teacher_finite() -> None:
    q, k, phi_q, phi_k = states(9, 9)
    loss, entropy = streamed_soft_cross_entropy(1e3 * q, 1e3 * k, phi_q, phi_k, causal=True, block=BLOCK)
    expected, least = stored(1e3 * q, 1e3 * k, phi_q, phi_k, causal=True)
    close(loss, expected)
    close(entropy, least)


def test_what_lies_behind_masked_tokens_does_not_matter() -> None:
    mask = torch.arange(9) < torch.tensor([9, 4, 1])[:, None]
    given = states(9, 9)
    expected = streamed_soft_cross_entropy(*given, causal=False, key_mask=mask, query_mask=mask)
    others = [x.masked_fill(~mask[:, None, :, None], torch.nan) for x in given]
    others = [x.requires_grad_(index > 1) for index, x in enumerate(others)]
    loss = streamed_soft_cross_entropy(*others, causal=False, key_mask=mask, query_mask=mask)
    close(loss, expected)
    for gradient in torch.autograd.grad(loss[0], others[2:]):
        assert gradient.isfinite().all()
        assert (gradient.masked_select(~mask[:, None, :, None]) == 0).all()


def test_without_gradients_none_are_formed() -> None:
    given = states(9, 9)
    given[2].requires_grad_()
    with torch.no_grad():
        loss, _ = streamed_soft_cross_entropy(*given, causal=True)
    assert not loss.requires_grad
    close(loss, streamed_soft_cross_entropy(*given, causal=True)[0].detach())


def test_the_teacher_gets_no_gradient() -> None:
    given = [x.requires_grad_() for x in states(9, 9)]
    streamed_soft_cross_entropy(*given, causal=True)[0].backward()
    assert [x.grad is None for x in given] == [True, True, False, False]


def test_gradients_are_given_away_once() -> None:
    given = [x.requires_grad_() for x in states(9, 9)]
    loss, _ = streamed_soft_cross_entropy(*given, causal=True)
    loss.backward(retain_graph=True)
    with pytest.raises(RuntimeError, match=r"^a loss formed with its gradients gives them away: form it anew"):
        loss.backward()


@pytest.mark.parametrize("causal", [False, True], ids=["bidirectional", "causal"])
@pytest.mark.parametrize("padded", [False, True], ids=["full", "padded"])
def test_no_tensor_grows_faster_than_the_number_of_tokens(
    causal: bool, padded: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tiles, "PAIRS", 2**12)
    for n in (64, 256, 1024):
        given = [x.float() for x in states(n, n, batch=1)]
        key_mask = torch.rand(1, n) < 0.9 if padded else None
        leaves = [x.requires_grad_() for x in given[2:]]
        with LargestTensor() as record:
            streamed_soft_cross_entropy(*given[:2], *leaves, causal, key_mask, key_mask, block=8)[0].backward()
        # Three buffers of a block's pairs; features have as many numbers as HEADS x FEATURES = 60 keys per query.
        assert record.largest <= max(3 * 2**12, 3 * 8 * n, HEADS * FEATURES * n)
    assert HEADS * FEATURES * n < n * n / 16


@pytest.mark.usefixtures("without_shape_hook")
@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"phi_q": torch.ones(2, 6, 4, 10)}, r"^phi_q must have batch, heads and tokens of q, \(2, 6, 5\), got"),
        ({"k": torch.ones(2, 4, 7, 8)}, r"^k must be of shape \(2, a divisor of 6, 7, 8\), got \(2, 4, 7, 8\)$"),
        ({"phi_k": torch.ones(2, 6, 7, 9)}, r"^phi_k must be of shape \(2, a divisor of 6, 7, 10\), got"),
        ({"k": torch.ones(2, 6, 3, 8), "phi_k": torch.ones(2, 6, 3, 10)}, r"^q must have at most as many tokens as k"),
        ({"q": torch.ones(2, 6, 0, 8), "phi_q": torch.ones(2, 6, 0, 10)}, r"^q and k must hold at least one token"),
        ({"key_mask": torch.ones(2, 5, dtype=torch.bool)}, r"^key_mask must be bool of shape \(2, 7\), got"),
        ({"query_mask": torch.ones(2, 7, dtype=torch.bool)}, r"^query_mask must be bool of shape \(2, 5\), got"),
        ({"query_mask": torch.zeros(2, 5, dtype=torch.bool)}, r"^query_mask must keep at least one query, got none$"),
        ({"block": 0}, r"^block must be >= 1, got 0$"),
    ],
)
def test_arguments_that_do_not_fit_are_refused(change: dict[str, Any], message: str) -> None:
    given: dict[str, Any] = {
        "q": torch.ones(2, 6, 5, 8),
        "k": torch.ones(2, 6, 7, 8),
        "phi_q": torch.ones(2, 6, 5, 10),
        "phi_k": torch.ones(2, 6, 7, 10),
        "causal": True,
    }
    with pytest.raises(ValueError, match=message):
        streamed_soft_cross_entropy(**(given | change))
