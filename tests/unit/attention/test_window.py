"""Windowed attentions against sums over keys written out one query at a time, in float64."""

import itertools
import math
from functools import partial
from typing import Any

import pytest
import torch
from families import padded_batch, tiny_model
from memory import LargestTensor
from torch import Tensor
from torch.optim import AdamW

import mimicry
from mimicry.attention import (
    Attention,
    AttentionDims,
    SlidingWindowAttention,
    SoftmaxAttention,
    WindowLinearAttention,
    ablated,
)
from mimicry.attention.capture import attention_layers
from mimicry.attention.feature_maps.hedgehog import HedgehogFeatureMap
from mimicry.attention.feature_maps.hedgehog_softmax import HedgehogSoftmaxFeatureMap
from mimicry.attention.feature_maps.relu import ReluFeatureMap
from mimicry.training.attention_analysis import summarise_attention
from mimicry.training.distillation import DistillationModule
from mimicry.training.optimization import warmup_schedule

HEADS, WIDTH = 2, 4
both_directions = pytest.mark.parametrize("causal", [False, True], ids=["bidirectional", "causal"])
close64 = partial(torch.testing.assert_close, rtol=1e-10, atol=1e-12)


def hybrid(causal: bool, window: int, num_sinks: int, **options: Any) -> WindowLinearAttention:
    """As after some training: every parameter moved off its start."""
    dims = AttentionDims(HEADS, WIDTH, causal)
    attn = WindowLinearAttention(dims, HedgehogFeatureMap, window, num_sinks, **options).double()
    with torch.no_grad():
        for parameter in attn.parameters():
            parameter.add_(0.3 * torch.randn_like(parameter))
    return attn.eval()


def sliding(causal: bool, window: int, num_sinks: int) -> SlidingWindowAttention:
    return SlidingWindowAttention(AttentionDims(HEADS, WIDTH, causal), window, num_sinks)


def states(queries: int, keys: int) -> tuple[Tensor, Tensor, Tensor]:
    q = torch.randn(2, HEADS, queries, WIDTH, dtype=torch.float64)
    k, v = torch.randn(2, 2, HEADS, keys, WIDTH, dtype=torch.float64)
    return q, k, v


def scattered(keys: int) -> Tensor:
    """Padding on the left of the first example, anywhere in the second."""
    return torch.stack([torch.arange(keys) >= keys // 4, torch.rand(keys) > 0.3])


def parts(attn: Attention, i: int, shape: tuple[int, int], present: list[bool]) -> tuple[list[int], list[int]]:
    """Keys that query i attends to by softmax, and those beyond; straight from the definition."""
    n, m = shape
    position = m - n + i if attn.dims.causal else i
    sinks = [j for j in range(m) if present[j]][: attn.window.num_sinks]
    seen = [j for j in range(m) if present[j] and (j <= position or not attn.dims.causal)]
    near = [j for j in seen if abs(position - j) < attn.window.size or j in sinks]
    return near, [j for j in seen if j not in near]


def log_scores(attn: Attention, q: Tensor, k: Tensor, key_mask: Tensor | None, without: str = "none") -> Tensor:
    """Logarithms of the scores of all pairs, -inf where a pair does not count."""
    n, m = q.shape[2], k.shape[2]
    softmax = q @ k.mT / math.sqrt(q.shape[3])
    linear = torch.full_like(softmax, -torch.inf)
    if isinstance(attn, WindowLinearAttention):
        softmax = softmax + attn.log_mixing.to(q.dtype)
        log_q, log_k = attn.query_map.log_features(q), attn.key_map.log_features(k)
        linear = torch.logsumexp(log_q[:, :, :, None] + log_k[:, :, None], dim=-1)
    by_softmax, by_map = torch.zeros(2, 2, 1, n, m, dtype=torch.bool)
    for b in range(2):
        present = [True] * m if key_mask is None else key_mask[b].tolist()
        for i in range(n):
            near, beyond = parts(attn, i, (n, m), present)
            by_softmax[b, 0, i, near] = without != "window"
            by_map[b, 0, i, beyond] = without != "linear"
    scores = torch.where(by_softmax, softmax, linear)
    return scores.masked_fill(~(by_softmax | by_map), -torch.inf)


def defined(attn: Attention, q: Tensor, k: Tensor, key_mask: Tensor | None, without: str = "none") -> Tensor:
    """Weights by the definition; rows that see nothing are 0."""
    scores = log_scores(attn, q, k, key_mask, without)
    seeing = (scores > -torch.inf).any(dim=-1, keepdim=True)
    return scores.masked_fill(~seeing, 0.0).softmax(dim=-1) * seeing


SHAPES = [(1, 1), (7, 7), (70, 70), (150, 150), (1, 90), (3, 66), (70, 140)]


@both_directions
@pytest.mark.parametrize(("queries", "keys"), SHAPES)
@pytest.mark.parametrize(("window", "num_sinks"), [(1, 0), (5, 3), (64, 1), (100, 0)])
def test_outputs_and_weights_equal_the_sums_written_out(
    causal: bool, queries: int, keys: int, window: int, num_sinks: int
) -> None:
    q, k, v = states(queries, keys)
    for attn in (hybrid(causal, window, num_sinks), sliding(causal, window, num_sinks)):
        for key_mask in (None, scattered(keys)):
            expected = defined(attn, q, k, key_mask)
            close64(attn.weights(q, k, key_mask), expected)
            close64(attn(q, k, v, key_mask), expected @ v)


@pytest.mark.parametrize(("queries", "keys"), [(9, 4), (200, 70), (70, 200)])
def test_bidirectional_queries_start_where_the_keys_do(queries: int, keys: int) -> None:
    q, k, v = states(queries, keys)
    for attn in (hybrid(False, 5, 2), sliding(False, 5, 2)):
        expected = defined(attn, q, k, None)
        close64(attn.weights(q, k), expected)
        close64(attn(q, k, v), expected @ v)


@both_directions
@pytest.mark.parametrize("queries", [70, 20])
@pytest.mark.parametrize("padded", [False, True], ids=["full", "padded"])
def test_gradients_equal_those_of_the_sums_written_out(causal: bool, queries: int, padded: bool) -> None:
    attn = hybrid(causal, window=6, num_sinks=2)
    q, k, v = (x.requires_grad_() for x in states(queries, 70))
    key_mask, leaves = scattered(70) if padded else None, [q, k, v, *attn.parameters()]
    assert any(leaf is attn.log_mixing for leaf in leaves)
    direction = torch.randn_like(q)
    expected = torch.autograd.grad((defined(attn, q, k, key_mask) @ v * direction).sum(), leaves)
    for outputs in (attn(q, k, v, key_mask), attn.weights(q, k, key_mask) @ v):
        for gradient, reference in zip(torch.autograd.grad((outputs * direction).sum(), leaves), expected, strict=True):
            assert reference.abs().sum() > 0
            close64(gradient, reference, rtol=1e-9, atol=1e-11)


@both_directions
def test_log_weights_and_their_gradients_are_those_of_the_definition(causal: bool) -> None:
    attn, (q, k, _), key_mask = hybrid(causal, 6, 2), states(30, 30), scattered(30)
    key_mask[:, 0] = True
    leaves = [q.requires_grad_(), k.requires_grad_(), *attn.parameters()]
    expected = log_scores(attn, q, k, key_mask).log_softmax(dim=-1)
    counted = expected > -torch.inf
    logs = attn.log_weights(q, k, key_mask)
    close64(logs[counted.expand_as(logs)], expected[counted.expand_as(logs)])
    direction = torch.rand_like(logs)[counted]
    actual = torch.autograd.grad((direction * logs[counted]).sum(), leaves)
    reference = torch.autograd.grad((direction * expected[counted]).sum(), leaves)
    for ours, theirs in zip(actual, reference, strict=True):
        close64(ours, theirs, rtol=1e-9, atol=1e-10)


@both_directions
@pytest.mark.parametrize("tokens", [1, 40, 130])
@pytest.mark.parametrize("window", [130, 10**9])
def test_a_window_as_long_as_the_sequence_is_softmax_whatever_the_mixing(
    causal: bool, tokens: int, window: int
) -> None:
    softmax = SoftmaxAttention(AttentionDims(HEADS, WIDTH, causal))
    q, k, v = states(tokens, tokens)
    for attn in (hybrid(causal, window, 0), sliding(causal, window, 0)):
        close64(attn(q, k, v), softmax(q, k, v))
        close64(attn.weights(q, k), softmax.weights(q, k))


@both_directions
def test_in_a_window_of_one_a_token_sees_itself_by_softmax(causal: bool) -> None:
    q, k, v = states(20, 20)
    close64(sliding(causal, 1, 0)(q, k, v), v)
    attn = hybrid(causal, 1, 0)
    scores = (attn.query_map(q) @ attn.key_map(k).mT) * (torch.ones(20, 20).tril() if causal else 1)
    itself = attn.log_mixing.exp() * (q @ k.mT / math.sqrt(WIDTH)).exp()
    scores = torch.where(torch.eye(20).bool(), itself, scores)
    close64(attn(q, k, v), scores / scores.sum(dim=-1, keepdim=True) @ v)


@both_directions
@pytest.mark.parametrize("part", ["linear", "window"])
def test_an_ablation_drops_one_part_and_normalises_the_other(causal: bool, part: Any) -> None:
    attn, (q, k, v), key_mask = hybrid(causal, 5, 2), states(70, 70), scattered(70)
    whole = attn(q, k, v, key_mask)
    attn.ablate = part
    expected = defined(attn, q, k, key_mask, without=part)
    close64(attn.weights(q, k, key_mask), expected)
    close64(attn(q, k, v, key_mask), expected @ v)
    kept = expected > 0
    close64(attn.log_weights(q, k, key_mask)[kept], expected[kept].log())
    if part == "linear":
        close64(attn(q, k, v, key_mask), sliding(causal, 5, 2)(q, k, v, key_mask))
    # Training sees both parts.
    attn.train()
    close64(attn(q, k, v, key_mask), whole)
    attn.eval().ablate = "none"
    close64(attn(q, k, v, key_mask), whole)


def test_without_softmax_nothing_is_left_of_a_sequence_inside_the_window() -> None:
    attn, (q, k, v) = hybrid(True, 5, 1, ablate="window"), states(8, 8)
    outputs = attn(q, k, v)
    # The sixth token is the first to be five positions behind a token; that one is the sink, and softmax's.
    assert (outputs[:, :, :6] == 0).all()
    assert (outputs[:, :, 6:] != 0).all()


def test_a_trained_model_is_ablated_for_a_while() -> None:
    student = mimicry.convert(
        tiny_model("bert"), partial(WindowLinearAttention, feature_map=HedgehogFeatureMap, window=3)
    )
    control = mimicry.convert(tiny_model("bert"), partial(SlidingWindowAttention, window=3))
    control.load_state_dict({name: student.state_dict()[name] for name in control.state_dict()})
    batch = padded_batch()
    with torch.no_grad():
        whole = student(**batch).logits
        with ablated(student, "linear"):
            torch.testing.assert_close(student(**batch).logits, control(**batch).logits)
        with ablated(student, "window"):
            assert not torch.allclose(student(**batch).logits, whole)
        # Also after an error.
        with pytest.raises(ValueError, match="input_ids"), ablated(student, "window"):
            student()
        assert torch.equal(student(**batch).logits, whole)


def test_what_cannot_be_ablated_is_refused() -> None:
    softmax = tiny_model("bert")
    message = r"^model must have windowed hybrid attention and be in evaluation mode, got one "
    with pytest.raises(ValueError, match=message + "without any$"), ablated(softmax, "linear"):
        pass
    training = mimicry.convert(softmax, "window_hedgehog").train()
    with pytest.raises(ValueError, match=message + "in training mode$"), ablated(training, "linear"):
        pass


@pytest.mark.usefixtures("without_shape_hook")
def test_an_unknown_part_is_refused_and_changes_nothing() -> None:
    attn: Any = hybrid(True, 5, 1)
    with pytest.raises(ValueError, match=r"^ablate must be one of none, linear, window, got 'softmax'$"):
        attn.ablate = "softmax"
    assert attn.ablate == "none"


@both_directions
def test_sinks_are_the_first_tokens_that_are_not_padding(causal: bool) -> None:
    attn, (q, k, _) = sliding(causal, 2, 3), states(12, 12)
    key_mask = torch.stack([torch.arange(12) >= 4, torch.arange(12) != 1])
    weights = attn.weights(q, k, key_mask)
    assert [(weights[b, 0, 11] > 0).nonzero().flatten().tolist() for b in range(2)] == [
        [4, 5, 6, 10, 11],
        [0, 2, 3, 10, 11],
    ]
    # Sinks ahead of a query are out of its sight only when causal.
    assert (weights[0, 0, 4] > 0).nonzero().flatten().tolist() == ([4] if causal else [4, 5, 6])
    assert (weights[0, 0, :4] == 0).all() == causal


def test_a_left_padded_example_has_the_outputs_it_has_alone() -> None:
    attn, (q, k, v) = hybrid(True, 4, 2), states(40, 40)
    key_mask = (torch.arange(40) >= 9).expand(2, -1)
    close64(attn(q, k, v, key_mask)[:, :, 9:], attn(q[:, :, 9:], k[:, :, 9:], v[:, :, 9:]))


@both_directions
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize("tokens", [70, 45, 7])
def test_exponents_far_beyond_the_range_of_exp_stay_exact(causal: bool, dtype: torch.dtype, tokens: int) -> None:
    attn = WindowLinearAttention(AttentionDims(HEADS, WIDTH, causal), HedgehogFeatureMap, 3, 1)
    q, k, v = 2 * torch.rand(3, 2, HEADS, tokens, WIDTH) - 1
    for size in (1, 30, 170):
        x, y, z = (size * q).to(dtype), (k * size).to(dtype), v.to(dtype)
        exact = defined(attn, x.double(), y.double(), None).detach()
        # A float32 exponent of 30,000 is known to 1e-3 at best.
        off = 1e-5 if size < 170 else 5e-3
        torch.testing.assert_close(attn.weights(x, y).double(), exact, rtol=0, atol=off)
        off = max(off, 2e-2 if dtype == torch.bfloat16 else 0.0)
        torch.testing.assert_close(attn(x, y, z).double(), exact @ z.double(), rtol=0, atol=off)


@both_directions
@pytest.mark.parametrize("size", [3.0, 60.0])
@pytest.mark.parametrize("tokens", [75, 24])
def test_gradients_of_large_exponents_are_those_of_the_definition(causal: bool, size: float, tokens: int) -> None:
    attn = hybrid(causal, 5, 1)
    q, k, v = (x.requires_grad_() for x in states(tokens, tokens))
    leaves, direction = [q, k, v, *attn.parameters()], torch.randn(2, HEADS, tokens, WIDTH, dtype=torch.float64)
    expected = torch.autograd.grad(defined(attn, size * q, size * k, None) @ v, leaves, direction)
    for outputs in (attn(size * q, size * k, v), attn.weights(size * q, size * k) @ v):
        for gradient, reference in zip(torch.autograd.grad(outputs, leaves, direction), expected, strict=True):
            close64(gradient, reference, rtol=1e-8, atol=1e-9)


@both_directions
@pytest.mark.parametrize("tokens", [75, 24])
def test_gradients_of_large_exponents_are_finite_in_float32(causal: bool, tokens: int) -> None:
    attn = WindowLinearAttention(AttentionDims(HEADS, WIDTH, causal), HedgehogFeatureMap, 3, 1)
    q, k, v = (x.requires_grad_() for x in 170 * torch.randn(3, 2, HEADS, tokens, WIDTH))
    (attn(q, k, v).square().mean() + attn.weights(q, k).square().sum() + attn.log_weights(q, k).mean()).backward()
    for leaf in (q, k, v, *attn.parameters()):
        assert leaf.grad is not None
        assert leaf.grad.isfinite().all()


def test_either_part_may_outweigh_the_other_beyond_any_range() -> None:
    attn, (q, k, v) = hybrid(True, 5, 1), states(70, 70)
    for log_mixing, without in ((-2000.0, "window"), (2000.0, "linear")):
        with torch.no_grad():
            attn.log_mixing.fill_(log_mixing)
        expected = defined(attn, q, k, None, without) @ v
        close64(attn(q, k, v)[:, :, 6:], expected[:, :, 6:])
        assert attn(q, k, v).isfinite().all()


def test_a_large_later_key_leaves_earlier_causal_outputs_unchanged() -> None:
    attn = WindowLinearAttention(AttentionDims(HEADS, WIDTH, True), HedgehogFeatureMap, 3, 1)
    q, k, v = torch.randn(3, 1, HEADS, 70, WIDTH)
    before = attn(q, k, v)
    k[:, :, -20] = 170.0
    torch.testing.assert_close(attn(q, k, v)[:, :, :50], before[:, :, :50], rtol=0, atol=1e-6)


@both_directions
@pytest.mark.parametrize("size", [1.0, 100.0], ids=["moderate", "large"])
def test_time_and_memory_grow_linearly_with_the_sequence(causal: bool, size: float) -> None:
    attn, seen = WindowLinearAttention(AttentionDims(1, 8, causal), HedgehogFeatureMap, 16, 2), []
    for tokens in (1024, 2048, 4096):
        q, k, v = (size * torch.randn(3, 1, 1, tokens, 8)).requires_grad_()
        with LargestTensor() as made:
            attn(q, k, v).sum().backward()
        seen.append((made.largest, made.total))
    for shorter, longer in itertools.pairwise(seen):
        assert longer[0] <= 2.05 * shorter[0]
        assert longer[1] <= 2.05 * shorter[1]


def test_one_query_reads_only_its_window_of_the_softmax_part() -> None:
    q, k, v = torch.randn(1, HEADS, 1, WIDTH), *torch.randn(2, 1, HEADS, 5000, WIDTH)
    with LargestTensor() as made:
        sliding(True, 16, 1)(q, k, v)
    # Nothing but the mask is as long as the keys.
    assert made.largest <= 5000


def test_mixing_starts_where_both_parts_weigh_a_zero_key_the_same() -> None:
    dims, zero = AttentionDims(HEADS, 8, True), torch.zeros(1, HEADS, 12, 8)
    for feature_map, gamma in ((HedgehogFeatureMap, 16.0), (HedgehogSoftmaxFeatureMap, 2 / 8)):
        for learn_mixing in (True, False):
            attn = WindowLinearAttention(dims, feature_map, window=4, num_sinks=0, learn_mixing=learn_mixing)
            torch.testing.assert_close(attn.log_mixing.exp(), torch.full((HEADS, 1, 1), gamma))
            weights = attn.weights(zero, zero)[0, 0, 11]
            torch.testing.assert_close(weights, torch.full((12,), 1 / 12))
            assert ("log_mixing" in dict(attn.named_parameters())) == learn_mixing
            assert "log_mixing" in attn.state_dict()


@pytest.mark.parametrize("name", ["window", "num_sinks"])
def test_sizes_below_their_least_are_refused(name: str) -> None:
    least = {"window": 1, "num_sinks": 0}[name]
    with pytest.raises(ValueError, match=rf"^{name} must be >= {least}, got {least - 1}$"):
        SlidingWindowAttention(AttentionDims(2, 4, True), **{name: least - 1})
    with pytest.raises(ValueError, match=rf"^{name} must be >= {least}, got {least - 1}$"):
        WindowLinearAttention(AttentionDims(2, 4, True), HedgehogFeatureMap, **{name: least - 1})


def test_a_map_without_exponentials_is_refused() -> None:
    with pytest.raises(ValueError, match=r"^feature_map must have exponentials for features, got ReluFeatureMap$"):
        WindowLinearAttention(AttentionDims(2, 4, True), ReluFeatureMap)


@pytest.mark.parametrize("ablate", ["none", "linear"])
def test_distilling_trains_mixing_and_maps_and_lowers_the_divergence(ablate: Any) -> None:
    factory = partial(WindowLinearAttention, feature_map=HedgehogFeatureMap, window=2, num_sinks=1, ablate=ablate)
    teacher = mimicry.canonicalise(tiny_model("bert"))
    student, batch = mimicry.convert(teacher, factory), padded_batch()
    module = DistillationModule(teacher, student, partial(AdamW, lr=0.1), warmup_schedule, 1e-2)
    module.log = lambda *_, **__: None
    # Trained in evaluation mode, an ablated layer would learn nothing of what it leaves out.
    module.on_train_start()
    before = {name: value.clone() for name, value in module.students.named_parameters()}
    assert len(before) == 2 * 5
    first = summarise_attention(teacher, student, [batch])
    optimizer = AdamW(module.students.parameters(), lr=1e-2, weight_decay=0.0)
    for _ in range(30):
        optimizer.zero_grad()
        module.training_step(batch | {"labels": torch.tensor([0, 1, 2])}, 0).backward()
        optimizer.step()
    for name, value in module.students.named_parameters():
        assert (value != before[name]).flatten(1).any(dim=1).all(), name
    assert summarise_attention(teacher, student, [batch]).kl < 0.5 * first.kl
    student.eval()
    layers = attention_layers(student).values()
    assert {layer.ablate for layer in layers} == {ablate}
    if ablate == "linear":
        # Measured, the control lacks what training had.
        with ablated(student, "none"):
            whole = summarise_attention(teacher, student, [batch]).kl
        assert summarise_attention(teacher, student, [batch]).kl > whole
