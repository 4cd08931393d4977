"""The analyses of attention on tiny models: closed forms, and what must not change the numbers."""

import functools
import math

import numpy as np
import pytest
import torch
from families import left_padded_batch, padded_batch, tiny_model
from memory import LivePeak
from torch import Tensor, nn

import mimicry
from mimicry.attention import Attention, AttentionDims, LinearAttention
from mimicry.attention.capture import attention_layers
from mimicry.attention.feature_maps.base import FeatureMap
from mimicry.training import attention_statistics
from mimicry.training.attention_analysis import AttentionSummary, moved, summarise_attention
from mimicry.training.attention_statistics import AttentionStatistics, HeadNumbers
from mimicry.training.layer_measures import FullAnalysis, drawn_queries

FULL = FullAnalysis(queries=3, top_k=2)


def numbers(summary: AttentionSummary) -> dict[str, HeadNumbers]:
    return {entry.name.removeprefix("analysis/"): entry for entry in summary.heads}


def mean(summary: AttentionSummary, name: str) -> np.ndarray:
    return np.array(numbers(summary)[name].mean)


def pair(family: str = "bert", attention: str = "hedgehog") -> tuple[nn.Module, nn.Module]:
    teacher = mimicry.canonicalise(tiny_model(family))
    return teacher, mimicry.convert(teacher, attention)


@pytest.mark.parametrize("family", ["bert", "llama"])
def test_softmax_rises_with_the_dot_product_by_construction(family: str) -> None:
    teacher, _ = pair(family)
    batch = padded_batch() if family == "bert" else left_padded_batch()
    summary = summarise_attention(teacher, teacher, [batch], FULL)
    for name in ("monotonicity", "kendall", "isotonic_r2"):
        np.testing.assert_allclose(mean(summary, name), np.ones((2, 4)), atol=1e-6)
        assert np.array(numbers(summary)[name].count).min() > 3
    # Over what softmax gives, softmax is the diagonal.
    (curve,) = (curve for curve in summary.curves if curve.name == "analysis/monotonicity")
    seen = np.isfinite(curve.y)
    assert seen.sum() > 5
    np.testing.assert_allclose(np.array(curve.y)[seen], np.array(curve.x)[seen], atol=0.15)


def test_softmax_of_keys_that_are_the_same_still_scores_one() -> None:
    teacher, _ = pair("llama")
    batch = {"input_ids": torch.full((2, 12), 7)}
    # One token again and again: without positions all keys are equal, and products differ by rounding alone.
    for module in teacher.modules():
        if type(module).__name__.endswith("RotaryEmbedding"):
            module.inv_freq.zero_()
    summary = summarise_attention(teacher, teacher, [batch], FULL)
    # In later layers rounding in float32 tells the tokens apart.
    assert np.isnan(mean(summary, "monotonicity")[0]).all()
    batch["input_ids"][:, ::3] = 9
    assert np.nanmin(mean(summarise_attention(teacher, teacher, [batch], FULL), "monotonicity")) == pytest.approx(1)


def test_a_copy_of_the_teacher_is_faithful_in_every_way() -> None:
    teacher, same = pair(attention="softmax")
    summary = summarise_attention(teacher, same, [padded_batch()], FULL)
    np.testing.assert_allclose(mean(summary, "kl"), np.zeros((2, 4)), atol=1e-6)
    np.testing.assert_allclose(mean(summary, "total_variation"), np.zeros((2, 4)), atol=1e-6)
    np.testing.assert_allclose(mean(summary, "output_cosine"), np.ones((2, 4)), atol=1e-6)
    np.testing.assert_allclose(mean(summary, "top_k"), np.ones((2, 4)), atol=1e-12)


def test_uniform_attention_has_full_entropy_and_no_order() -> None:
    class Constant(FeatureMap):
        def __init__(self, dims: AttentionDims) -> None:
            super().__init__(feature_dim=dims.head_dim)

        def forward(self, x: Tensor, start: int = 0) -> Tensor:
            return torch.ones_like(x)

    teacher, _ = pair()
    uniform = mimicry.convert(teacher, functools.partial(LinearAttention, feature_map=Constant))
    batch = padded_batch()
    summary = summarise_attention(teacher, uniform, [batch], FULL)
    np.testing.assert_allclose(mean(summary, "entropy_normalised"), np.ones((2, 4)), rtol=1e-6)
    # 6 real tokens in the first row, 12 in the others.
    expected = (6 * math.log(6) + 24 * math.log(12)) / 30
    assert summary.student_entropy == pytest.approx(expected, rel=1e-6)
    assert np.isnan(mean(summary, "monotonicity")).all()
    shares = next(curve for curve in summary.curves if curve.name == "analysis/entropy_histogram")
    assert shares.y[-1] == 1
    assert sum(shares.y) == 1


def all_numbers(summary: AttentionSummary) -> np.ndarray:
    heads = [np.array([entry.mean, entry.std, entry.count, *entry.quantiles.values()]) for entry in summary.heads]
    curves = [np.array([curve.x, curve.y]) for curve in summary.curves]
    return np.concatenate([part.ravel() for part in (*heads, *curves)])


@pytest.mark.parametrize("attention", ["hedgehog", "t2r", "cosformer", "window_hedgehog"])
def test_the_size_of_a_block_of_queries_changes_nothing(attention: str) -> None:
    teacher, student = pair("llama", attention)
    batch = left_padded_batch()
    whole = all_numbers(summarise_attention(teacher, student, [batch], FULL, block=100))
    blocked = all_numbers(summarise_attention(teacher, student, [batch], FULL, block=5))
    np.testing.assert_allclose(blocked, whole, rtol=2e-5, atol=1e-6)


def test_neither_padding_nor_the_batches_nor_their_order_change_anything() -> None:
    teacher, student = pair()
    batch = padded_batch()
    whole = all_numbers(summarise_attention(teacher, student, [batch], FULL))
    rows = [{name: value[i : i + 1] for name, value in batch.items()} for i in (2, 0, 1)]
    longer = {name: nn.functional.pad(value, (0, 5)) for name, value in batch.items()}
    for batches in (rows, [longer]):
        again = all_numbers(summarise_attention(teacher, student, batches, FULL))
        np.testing.assert_allclose(again, whole, rtol=2e-4, atol=1e-5)


def test_a_summary_measures_entropy_and_divergence_as_a_full_analysis_does() -> None:
    teacher, student = pair()
    batch = padded_batch()
    brief, full = (summarise_attention(teacher, student, [batch], detail) for detail in (None, FULL))
    assert [entry.name for entry in brief.heads] == ["analysis/entropy", "analysis/kl"]
    assert brief.curves == ()
    assert len(full.heads) == 9
    for name in ("entropy", "kl"):
        np.testing.assert_allclose(mean(full, name), mean(brief, name), rtol=1e-4)
    assert full.kl == pytest.approx(brief.kl, rel=1e-4)
    assert full.teacher_entropy == pytest.approx(brief.teacher_entropy, rel=1e-4)


def test_analysing_neither_draws_random_numbers_nor_touches_the_models() -> None:
    teacher, student = pair()
    batch = padded_batch()
    before = {name: value.clone() for name, value in student.state_dict().items()}
    state = torch.get_rng_state()
    summarise_attention(teacher, student, [batch], FULL)
    assert torch.equal(torch.get_rng_state(), state)
    assert all(torch.equal(value, before[name]) for name, value in student.state_dict().items())
    assert all(not layer._forward_hooks for layer in attention_layers(student).values())


def test_states_in_bfloat16_are_measured_in_float32_or_better() -> None:
    teacher, student = (model.bfloat16() for model in pair("llama"))
    batch = left_padded_batch()
    summary = summarise_attention(teacher, student, [batch], FULL)
    assert math.isfinite(summary.kl)
    np.testing.assert_allclose(mean(summarise_attention(teacher, teacher, [batch], FULL), "monotonicity"), 1, atol=1e-6)


def test_the_draw_of_queries_depends_on_how_many_count_alone() -> None:
    counted = torch.zeros(3, 20, dtype=torch.bool)
    counted[0, :9], counted[1, 11:], counted[2, :2] = True, True, True
    drawn = drawn_queries(counted, 4)
    assert drawn.sum(dim=1).tolist() == [4, 4, 2]
    assert not (drawn & ~counted).any()
    assert drawn[0, :9].tolist() == drawn[1, 11:].tolist()
    assert torch.equal(drawn_queries(counted[:1, :9], 4), drawn[:1, :9])


def test_positions_are_means_over_stretches() -> None:
    statistics = AttentionStatistics(spread=True)
    values = torch.arange(100.0).expand(2, 3, 100).clone()
    counted = torch.ones(2, 100, dtype=torch.bool)
    counted[0, 90:] = False
    values[1, :, 3] = torch.nan
    statistics.add_positions("kl", values[:, :, :60], counted[:, :60], first=0)
    statistics.add_positions("kl", values[:, :, 60:], counted[:, 60:], first=60)
    (curve,) = statistics.curves()
    assert curve.x_name == "position"
    assert len(curve.x) == 34
    assert curve.x[0] == 1
    np.testing.assert_allclose(curve.y, curve.x, atol=0.21)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_a_gpu_gives_the_same_numbers_and_gives_the_models_back() -> None:
    teacher, student = pair("llama")
    here = all_numbers(summarise_attention(teacher, student, [left_padded_batch()], FULL))
    with moved([teacher, student], torch.device("cuda")):
        torch.manual_seed(0)
        there = all_numbers(summarise_attention(teacher, student, [left_padded_batch()], FULL))
    np.testing.assert_allclose(there, here, rtol=1e-3, atol=1e-4)
    assert next(student.parameters()).device.type == "cpu"


def test_eight_times_the_blocks_of_queries_take_no_more_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    # The sample for the scatter plot is full after the first blocks, rather than after sixty.
    monkeypatch.setattr(attention_statistics, "MOST_POINTS", 2 * attention_statistics.POINTS)
    teacher, student = pair()
    draw = torch.Generator().manual_seed(0)

    def peak(batches: int) -> int:
        some = ({"input_ids": torch.randint(0, 20, (4, 20), generator=draw)} for _ in range(batches))
        with LivePeak() as memory:
            summary = summarise_attention(teacher, student, some, FULL, block=5)
        assert numbers(summary)["kl"].count == [[80 * batches] * 4] * 2
        return memory.peak

    # What is made once for all is there by then.
    peak(1)
    assert peak(16) == peak(2)


def test_the_sample_for_the_scatter_plot_keeps_its_points_alone() -> None:
    statistics = AttentionStatistics(spread=True)
    logs = -torch.rand(8, 4, 500, dtype=torch.float64)
    statistics.add_rises(logs, 2 * logs)
    (points,) = statistics.points
    assert points.untyped_storage().nbytes() == points.nbytes == attention_statistics.POINTS * 2 * 8
    torch.testing.assert_close(points[:, 1], 2 * points[:, 0])


def test_an_own_attention_needs_nothing_but_the_contract() -> None:
    class Nearest(Attention):
        """All weight on the nearest visible key."""

        def weights(self, q: Tensor, k: Tensor, key_mask: Tensor | None = None) -> Tensor:
            visible = self.visible(q, k, key_mask)
            scores = -torch.cdist(q, k)
            scores = scores if visible is None else scores.masked_fill(~visible, -torch.inf)
            return nn.functional.one_hot(scores.argmax(dim=-1), k.shape[2]).to(q.dtype)

        def forward(self, q: Tensor, k: Tensor, v: Tensor, key_mask: Tensor | None = None) -> Tensor:
            return self.weights(q, k, key_mask) @ v

    teacher, _ = pair()
    summary = summarise_attention(teacher, mimicry.convert(teacher, Nearest), [padded_batch()], FULL, block=4)
    np.testing.assert_array_equal(mean(summary, "entropy"), np.zeros((2, 4)))
    assert summary.kl > 1


@pytest.mark.parametrize("options", [{"queries": 0}, {"top_k": 0}])
def test_settings_out_of_range_are_refused(options: dict[str, int]) -> None:
    with pytest.raises(ValueError, match=rf"analysis.full.{next(iter(options))} must be >= 1, got 0"):
        FullAnalysis(**options)
