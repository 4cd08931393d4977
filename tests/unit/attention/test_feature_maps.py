"""Each feature map against its formula, written out in NumPy."""

import functools
import math
import re
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from jaxtyping import TypeCheckError
from scipy.special import hyp0f1
from torch import Tensor, nn

from mimicry.attention import AttentionDims, LinearAttention
from mimicry.attention.feature_maps.base import FeatureMap, KernelFeatureMap, LogFeatureMap
from mimicry.attention.feature_maps.cosformer import CosformerFeatureMap
from mimicry.attention.feature_maps.elu import EluFeatureMap
from mimicry.attention.feature_maps.exponential import ExponentialFeatureMap
from mimicry.attention.feature_maps.hedgehog import HedgehogFeatureMap
from mimicry.attention.feature_maps.hedgehog_softmax import HedgehogSoftmaxFeatureMap
from mimicry.attention.feature_maps.performer import PerformerFeatureMap
from mimicry.attention.feature_maps.relu import ReluFeatureMap
from mimicry.attention.feature_maps.t2r import T2RFeatureMap
from mimicry.attention.feature_maps.taylor import TaylorFeatureMap

HEADS, WIDTH, TOKENS = 3, 8, 6
DIMS = AttentionDims(HEADS, WIDTH, causal=False)
LEARNT = [HedgehogFeatureMap, HedgehogSoftmaxFeatureMap, T2RFeatureMap]
learnt_maps = pytest.mark.parametrize("kind", LEARNT, ids=lambda kind: kind.__name__)


def inputs(scale: float = 1.0) -> Tensor:
    return scale * torch.randn(2, HEADS, TOKENS, WIDTH, dtype=torch.float64)


def shuffle(feature_map: FeatureMap) -> FeatureMap:
    """Random values in every parameter, biases included."""
    with torch.no_grad():
        for parameter in feature_map.parameters():
            nn.init.normal_(parameter, std=0.5)
    return feature_map.double()


def same(actual: Tensor, expected: np.ndarray) -> None:
    np.testing.assert_allclose(actual.detach().numpy(), expected, rtol=1e-12, atol=1e-14)


def projected(feature_map: Any, x: np.ndarray) -> np.ndarray:
    """W_h x + b_h one head and one token at a time."""
    weight = feature_map.projection.weight.detach().numpy()
    bias = feature_map.projection.bias
    out = np.empty_like(x)
    for b, h, n in np.ndindex(*x.shape[:3]):
        head = h if len(weight) > 1 else 0
        out[b, h, n] = weight[head] @ x[b, h, n] + (0 if bias is None else bias.detach().numpy()[head, 0])
    return out


def softmax(u: np.ndarray) -> np.ndarray:
    return np.exp(u) / np.exp(u).sum(axis=-1, keepdims=True)


LEARNT_FORMULAS: dict[type, Callable[[np.ndarray], np.ndarray]] = {
    HedgehogFeatureMap: lambda u: np.concatenate([np.exp(u), np.exp(-u)], axis=-1),
    HedgehogSoftmaxFeatureMap: lambda u: np.concatenate([softmax(u), softmax(-u)], axis=-1),
    T2RFeatureMap: lambda u: np.maximum(u, 0) + 1e-6,
}


# Fixed maps.


def test_elu_is_one_plus_elu() -> None:
    x = inputs(3)
    plain = x.numpy()
    same(EluFeatureMap(DIMS)(x), np.where(plain > 0, 1 + plain, np.exp(plain)))


@pytest.mark.parametrize("eps", [0.0, 1e-6, 0.5])
def test_relu_adds_its_eps(eps: float) -> None:
    x = inputs(3)
    same(ReluFeatureMap(DIMS, eps=eps)(x), np.maximum(x.numpy(), 0) + eps)


@pytest.mark.parametrize("temperature", [0.5, 1.0, 2.0])
def test_exponential_is_exp_of_temperature_times_x(temperature: float) -> None:
    x = inputs(3)
    same(ExponentialFeatureMap(DIMS, temperature=temperature)(x), np.exp(temperature * x.numpy()))


@pytest.mark.parametrize("width", [1, 2, 8, 64])
def test_taylor_products_are_the_second_order_expansion_of_exp(width: int) -> None:
    feature_map = TaylorFeatureMap(AttentionDims(2, width, causal=False))
    assert feature_map.feature_dim == 1 + width + width * (width + 1) // 2
    q, k = torch.randn(2, 1, 2, 5, width, dtype=torch.float64)
    s = (q @ k.transpose(-1, -2)).numpy() / math.sqrt(width)
    assert s.min() < 0 < s.max()
    same(feature_map(q) @ feature_map(k).transpose(-1, -2), 1 + s + s**2 / 2)


def test_taylor_never_falls_below_one_half() -> None:
    feature_map = TaylorFeatureMap(AttentionDims(1, 1, causal=False))
    q, k = torch.linspace(-3, 3, 61, dtype=torch.float64).view(1, 1, -1, 1), torch.ones(1, 1, 1, 1, dtype=torch.float64)
    kernel = (feature_map(q) @ feature_map(k).transpose(-1, -2)).flatten()
    assert kernel.min().item() == pytest.approx(0.5, abs=1e-12)
    assert q.flatten()[kernel.argmin()].item() == pytest.approx(-1.0, abs=1e-12)


# Kernels.

both_precisions = pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float64, 1e-11), (torch.float32, 2e-5)])


class FeaturesOnly(FeatureMap):
    """The Taylor map without its closed form."""

    def __init__(self, dims: AttentionDims) -> None:
        inner = TaylorFeatureMap(dims)
        super().__init__(inner.feature_dim)
        self.inner = inner

    def forward(self, x: Tensor, start: int = 0) -> Tensor:
        return self.inner(x, start)


@pytest.mark.parametrize("width", [1, 8, 64])
@pytest.mark.parametrize("scale", [0.1, 1.0, 5.0])
def test_kernels_are_the_products_of_the_features(width: int, scale: float) -> None:
    feature_map: KernelFeatureMap = TaylorFeatureMap(AttentionDims(2, width, causal=False))
    q, k = scale * torch.randn(2, 3, 2, 7, width, dtype=torch.float64)
    expected = feature_map(q) @ feature_map(k[:, :, :5]).transpose(-1, -2)
    torch.testing.assert_close(feature_map.kernel(q, k[:, :, :5]), expected, rtol=1e-12, atol=1e-12)


@both_precisions
@pytest.mark.parametrize("causal", [False, True], ids=["bidirectional", "causal"])
@pytest.mark.parametrize("tie_maps", [False, True], ids=["untied", "tied"])
# 1 + 4 + 10 = 15 features: up to 15 tokens pairs are cheaper.
@pytest.mark.parametrize(("queries", "keys"), [(1, 40), (9, 40), (10, 40), (14, 14), (15, 15), (16, 16), (17, 17)])
def test_both_forms_agree_around_the_length_where_they_switch(
    queries: int, keys: int, tie_maps: bool, causal: bool, dtype: torch.dtype, tolerance: float
) -> None:
    dims = AttentionDims(2, 4, causal)
    pairs, features = (LinearAttention(dims, kind, tie_maps).to(dtype) for kind in (TaylorFeatureMap, FeaturesOnly))
    q, k, v = leaves = [torch.randn(3, 2, n, 4, dtype=dtype, requires_grad=True) for n in (queries, keys, keys)]
    key_mask = torch.rand(3, keys) < 0.7
    key_mask[2] = False
    for mask in (None, key_mask):
        outputs, expected = pairs(q, k, v, mask), features(q, k, v, mask)
        assert outputs.dtype == dtype
        torch.testing.assert_close(outputs, expected, rtol=tolerance, atol=tolerance)
        torch.testing.assert_close(pairs.weights(q, k, mask), features.weights(q, k, mask), rtol=tolerance, atol=1e-7)
        direction = torch.randn_like(outputs)
        gradients = torch.autograd.grad((outputs * direction).sum(), leaves)
        references = torch.autograd.grad((expected * direction).sum(), leaves)
        for gradient, reference in zip(gradients, references, strict=True):
            torch.testing.assert_close(gradient, reference, rtol=tolerance, atol=tolerance)
    assert (outputs[2] == 0).all()


@pytest.mark.parametrize("causal", [False, True], ids=["bidirectional", "causal"])
@pytest.mark.parametrize(("queries", "keys", "formed"), [(15, 15, 0), (9, 40, 0), (1, 1000, 0), (16, 16, 2)])
def test_short_sequences_form_no_features(queries: int, keys: int, formed: int, causal: bool) -> None:
    attn = LinearAttention(AttentionDims(1, 4, causal), TaylorFeatureMap)
    calls: list[nn.Module] = []
    for feature_map in (attn.query_map, attn.key_map):
        feature_map.register_forward_hook(lambda module, _, __: calls.append(module))
    k = torch.randn(1, 1, keys, 4)
    attn(k[:, :, :queries], k, k)
    assert len(calls) == formed


# cosFormer.


@pytest.mark.parametrize("length", [6, 100])
def test_cosformer_kernel_is_the_relu_product_times_the_cosine_of_the_distance(length: int) -> None:
    feature_map = CosformerFeatureMap(DIMS, max_length=length, eps=0.0)
    assert feature_map.feature_dim == 2 * WIDTH
    q, k = inputs(), inputs()
    i = np.arange(TOKENS)
    distance = np.cos(np.pi * (i[:, None] - i[None]) / (2 * length))
    expected = np.maximum(q.numpy(), 0) @ np.maximum(k.numpy(), 0).swapaxes(-1, -2) * distance
    same(feature_map(q) @ feature_map(k).transpose(-1, -2), expected)


def test_cosformer_features_are_cosine_and_sine_halves() -> None:
    x = inputs()
    r = np.maximum(x.numpy(), 0) + 1e-6
    angle = np.pi * np.arange(TOKENS)[:, None] / (2 * 50)
    expected = np.concatenate([r * np.cos(angle), r * np.sin(angle)], axis=-1)
    same(CosformerFeatureMap(DIMS, max_length=50)(x), expected)


@pytest.mark.parametrize("start", [0, 1, 4])
def test_cosformer_counts_positions_from_the_start(start: int) -> None:
    feature_map, x = CosformerFeatureMap(DIMS, max_length=TOKENS), inputs()
    assert torch.equal(feature_map(x[:, :, start:], start=start), feature_map(x)[:, :, start:])
    if start:
        assert not torch.equal(feature_map(x[:, :, start:]), feature_map(x)[:, :, start:])


@pytest.mark.parametrize(("tokens", "start", "end"), [(6, 0, 6), (1, 5, 6), (3, 3, 6)])
def test_cosformer_refuses_positions_beyond_its_length(tokens: int, start: int, end: int) -> None:
    x = inputs()[:, :, :tokens]
    CosformerFeatureMap(DIMS, max_length=6)(x, start=start)
    with pytest.raises(ValueError, match=rf"^sequence length must be <= max_length = 5, got {end}$"):
        CosformerFeatureMap(DIMS, max_length=5)(x, start=start)


# Learnt maps.


@learnt_maps
@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("per_head", [True, False])
def test_learnt_maps_apply_their_activation_to_wx_plus_b(kind: Any, bias: bool, per_head: bool) -> None:
    feature_map, x = shuffle(kind(DIMS, bias=bias, per_head=per_head)), inputs()
    same(feature_map(x), LEARNT_FORMULAS[kind](projected(feature_map, x.numpy())))


@learnt_maps
@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("per_head", [True, False])
def test_learnt_maps_hold_one_matrix_per_head_or_one_for_all(kind: Any, bias: bool, per_head: bool) -> None:
    heads = HEADS if per_head else 1
    shapes = {"projection.weight": (heads, WIDTH, WIDTH)} | ({"projection.bias": (heads, 1, WIDTH)} if bias else {})
    feature_map = kind(DIMS, bias=bias, per_head=per_head)
    assert {name: tuple(parameter.shape) for name, parameter in feature_map.named_parameters()} == shapes


@learnt_maps
def test_a_shared_matrix_treats_every_head_alike(kind: Any) -> None:
    x = inputs()[:, :1].expand(-1, HEADS, -1, -1)
    shared = shuffle(kind(DIMS, per_head=False))(x)
    assert torch.equal(shared[:, 0], shared[:, 2])
    assert not torch.equal(*shuffle(kind(DIMS, per_head=True))(x)[:, ::2].unbind(dim=1))


@learnt_maps
def test_scaled_inputs_are_divided_by_the_fourth_root_of_the_width(kind: Any) -> None:
    scaled, x = shuffle(kind(DIMS, scale_inputs=True)), inputs()
    same(scaled(x), LEARNT_FORMULAS[kind](projected(scaled, x.numpy() / WIDTH**0.25)))


@learnt_maps
def test_identity_initialisation_starts_at_wx_equal_to_x(kind: Any) -> None:
    x = inputs()
    feature_map = kind(DIMS, bias=True, identity_init=True).double()
    same(feature_map(x), LEARNT_FORMULAS[kind](x.numpy()))
    weight = feature_map.projection.weight
    with torch.no_grad():
        weight[0] += 1.0
    assert torch.equal(weight[1], torch.eye(WIDTH).double()), "heads must not share memory"


@learnt_maps
def test_random_initialisation_is_that_of_a_linear_layer(kind: Any) -> None:
    feature_map = kind(AttentionDims(4, 64, causal=False), bias=True, identity_init=False)
    weight, limit = feature_map.projection.weight, 64**-0.5
    assert 0.99 * limit < weight.abs().max() <= limit
    assert weight.std().item() == pytest.approx(limit / math.sqrt(3), rel=0.02)
    assert not torch.equal(weight[0], weight[1])
    assert (feature_map.projection.bias == 0).all()


def test_rows_of_the_softmax_hedgehog_sum_to_two() -> None:
    features = shuffle(HedgehogSoftmaxFeatureMap(DIMS))(inputs(5))
    torch.testing.assert_close(features.sum(dim=-1), torch.full((2, HEADS, TOKENS), 2.0).double())
    half = features[..., :WIDTH].sum(dim=-1)
    torch.testing.assert_close(half, torch.ones_like(half))


def test_t2r_adds_its_eps() -> None:
    feature_map, x = shuffle(T2RFeatureMap(DIMS, eps=0.25)), inputs()
    same(feature_map(x), np.maximum(projected(feature_map, x.numpy()), 0) + 0.25)


def test_the_papers_parameter_count_is_met_without_bias_and_untied() -> None:
    layer = LinearAttention(AttentionDims(12, 64, False), lambda dims: HedgehogFeatureMap(dims, bias=False))
    assert 12 * sum(parameter.numel() for parameter in layer.parameters()) == 1_179_648


LOG_MAPS = [
    ExponentialFeatureMap(DIMS, temperature=2.0),
    HedgehogFeatureMap(DIMS),
    HedgehogSoftmaxFeatureMap(DIMS),
    PerformerFeatureMap(DIMS),
]


@pytest.mark.parametrize("feature_map", LOG_MAPS, ids=lambda feature_map: type(feature_map).__name__)
def test_features_are_the_exponential_of_the_log_features(feature_map: LogFeatureMap) -> None:
    x = inputs()
    feature_map = shuffle(feature_map)
    torch.testing.assert_close(feature_map(x), feature_map.log_features(x).exp(), rtol=1e-14, atol=0)


# Performer.


@pytest.mark.parametrize("norm_factor", [True, False])
@pytest.mark.parametrize("row_scaling", ["chi", "sqrt_d", "orthonormal"])
def test_performer_is_the_exponential_of_its_random_projections(row_scaling: Any, norm_factor: bool) -> None:
    feature_map = PerformerFeatureMap(DIMS, num_features=20, row_scaling=row_scaling, norm_factor=norm_factor).double()
    x = inputs()
    rows, y = feature_map.rows.numpy(), x.numpy() / WIDTH**0.25
    norm = np.exp((y**2).sum(axis=-1, keepdims=True) / 2) if norm_factor else 1.0
    same(feature_map(x), np.exp(y @ rows.T) / norm / math.sqrt(20))


def estimate_and_exact(row_scaling: Any) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """The estimated kernel of 5 queries and 5 keys, exp(q . k / sqrt(d)), and |q + k|^2 / sqrt(d)."""
    feature_map = PerformerFeatureMap(AttentionDims(1, WIDTH, False), num_features=40_000, row_scaling=row_scaling)
    q, k = 0.5 * torch.randn(2, 1, 1, 5, WIDTH, dtype=torch.float64)
    estimate = feature_map.double()(q) @ feature_map(k).transpose(-1, -2)
    exact = np.exp((q @ k.transpose(-1, -2)).numpy() / math.sqrt(WIDTH))
    return estimate.numpy(), exact, (q[:, :, :, None] + k[:, :, None]).square().sum(dim=-1).numpy() / math.sqrt(WIDTH)


def test_performer_with_gaussian_norms_is_unbiased_for_the_softmax_kernel() -> None:
    estimate, exact, _ = estimate_and_exact("chi")
    assert exact.max() > 2 * exact.min()
    np.testing.assert_allclose(estimate, exact, rtol=0.05)


def test_performer_with_constant_norms_averages_over_the_sphere() -> None:
    estimate, exact, squares = estimate_and_exact("sqrt_d")
    # E exp(w . z) is 0F1(d/2, d |z|^2 / 4) for w uniform on the sphere of radius sqrt(d), not exp(|z|^2 / 2).
    bias = hyp0f1(WIDTH / 2, WIDTH * squares / 4) / np.exp(squares / 2)
    assert bias.min() < 0.97
    np.testing.assert_allclose(estimate, exact * bias, rtol=0.03)


@pytest.mark.parametrize(("features", "width"), [(20, 8), (8, 8), (3, 8), (64, 16)])
@pytest.mark.parametrize("row_scaling", ["chi", "sqrt_d", "orthonormal"])
def test_performer_rows_are_orthogonal_inside_blocks_of_head_dim(features: int, width: int, row_scaling: Any) -> None:
    feature_map = PerformerFeatureMap(AttentionDims(1, width, False), num_features=features, row_scaling=row_scaling)
    assert feature_map.rows.shape == (features, width)
    for block in feature_map.rows.double().split(width):
        unit = block / block.norm(dim=1, keepdim=True)
        torch.testing.assert_close(unit @ unit.T, torch.eye(len(block)).double(), rtol=0, atol=1e-6)


def test_performer_rows_point_everywhere_alike() -> None:
    width, blocks = 8, 2000
    feature_map = PerformerFeatureMap(AttentionDims(1, width, False), num_features=width * blocks, row_scaling="sqrt_d")
    mean = feature_map.rows.view(blocks, width, width).mean(dim=0)
    # Entries of a uniform rotation times sqrt(d) have mean 0 and variance 1.
    assert mean.abs().max() < 5 / math.sqrt(blocks)


def test_performer_row_norms_follow_the_row_scaling() -> None:
    dims, features = AttentionDims(1, 16, False), 4096

    def norms(row_scaling: Any) -> Tensor:
        return PerformerFeatureMap(dims, num_features=features, row_scaling=row_scaling).rows.norm(dim=1)

    torch.testing.assert_close(norms("sqrt_d"), torch.full((features,), 4.0))
    torch.testing.assert_close(norms("orthonormal"), torch.full((features,), 1 / math.sqrt(features / 16)))
    chi = norms("chi").square()
    # A chi-square variable of d degrees of freedom has mean d and variance 2d.
    assert chi.mean().item() == pytest.approx(16, rel=0.02)
    assert chi.var().item() == pytest.approx(32, rel=0.15)


@pytest.mark.parametrize(("width", "features"), [(1, 1), (2, 1), (8, 16), (64, 266)])
def test_performer_draws_d_ln_d_features_unless_told(width: int, features: int) -> None:
    assert PerformerFeatureMap(AttentionDims(1, width, False)).feature_dim == features


def test_two_performer_layers_draw_different_rows() -> None:
    assert not torch.equal(PerformerFeatureMap(DIMS).rows, PerformerFeatureMap(DIMS).rows)


def performer(redraw_interval: int | None) -> LinearAttention:
    return LinearAttention(DIMS, lambda dims: PerformerFeatureMap(dims, redraw_interval=redraw_interval))


def test_performer_redraws_at_the_interval_and_alike_for_queries_and_keys() -> None:
    attn = performer(redraw_interval=10)
    changed, rows = [], attn.query_map.rows.clone()
    for step in range(25):
        for feature_map in (attn.query_map, attn.key_map):
            feature_map.before_step(step)
        if not torch.equal(attn.query_map.rows, rows):
            changed.append(step)
        rows = attn.query_map.rows.clone()
        assert torch.equal(rows, attn.key_map.rows)
    assert changed == [10, 20]


def test_performer_redraws_once_for_all_batches_of_an_accumulated_step() -> None:
    feature_map = PerformerFeatureMap(DIMS, redraw_interval=10)
    feature_map.before_step(10)
    rows = feature_map.rows.clone()
    feature_map.before_step(10)
    assert torch.equal(feature_map.rows, rows)


def test_performer_never_redraws_without_an_interval() -> None:
    feature_map = PerformerFeatureMap(DIMS, redraw_interval=None)
    rows = feature_map.rows.clone()
    for step in range(0, 5000, 500):
        feature_map.before_step(step)
    assert torch.equal(feature_map.rows, rows)


@pytest.mark.parametrize("training", [True, False])
def test_performer_never_redraws_in_a_forward_pass(training: bool) -> None:
    attn = performer(redraw_interval=1).train(training)
    rows = attn.query_map.rows.clone()
    x = torch.randn(3, 2, HEADS, TOKENS, WIDTH)
    outputs = attn(*x)
    for _ in range(3):
        assert torch.equal(attn(*x), outputs)
        attn.weights(x[0], x[1])
    assert torch.equal(attn.query_map.rows, rows)


def test_a_restored_performer_continues_with_the_same_rows() -> None:
    first, second = PerformerFeatureMap(DIMS, redraw_interval=5), PerformerFeatureMap(DIMS, redraw_interval=5)
    second.load_state_dict(first.state_dict())
    assert torch.equal(second.rows, first.rows)
    for feature_map in (first, second):
        feature_map.before_step(5)
    assert torch.equal(second.rows, first.rows)


# Options out of range.

OUT_OF_RANGE: list[tuple[Callable[..., FeatureMap], dict[str, Any], str]] = [
    (ExponentialFeatureMap, {"temperature": 0.0}, "temperature must be > 0, got 0.0"),
    (ExponentialFeatureMap, {"temperature": -1.0}, "temperature must be > 0, got -1.0"),
    (ReluFeatureMap, {"eps": -1e-6}, "eps must be >= 0, got -1e-06"),
    (T2RFeatureMap, {"eps": -1e-6}, "eps must be >= 0, got -1e-06"),
    (CosformerFeatureMap, {"eps": -1e-6}, "eps must be >= 0, got -1e-06"),
    (CosformerFeatureMap, {"max_length": 0}, "max_length must be >= 1, got 0"),
    (PerformerFeatureMap, {"num_features": 0}, "num_features must be >= 1, got 0"),
    (PerformerFeatureMap, {"redraw_interval": 0}, "redraw_interval must be >= 1, got 0"),
]


@pytest.mark.parametrize(("kind", "options", "message"), OUT_OF_RANGE, ids=[case[2] for case in OUT_OF_RANGE])
def test_options_out_of_range_are_refused_in_one_line(
    kind: Callable[..., FeatureMap], options: dict[str, Any], message: str
) -> None:
    with pytest.raises(ValueError, match=f"^{re.escape(message)}$"):
        kind(DIMS, **options)


def test_an_unknown_row_scaling_is_refused() -> None:
    # The suite's type checks come first; without them the constructor's own check answers.
    with pytest.raises((ValueError, TypeCheckError), match="row_scaling"):
        PerformerFeatureMap(DIMS, row_scaling="sqrt")  # type: ignore[arg-type]


@pytest.mark.parametrize("variant", [HedgehogFeatureMap, HedgehogSoftmaxFeatureMap, T2RFeatureMap])
@pytest.mark.parametrize("num_features", [3, 8, 20])
def test_the_number_of_features_can_differ_from_the_head_dim(variant: type, num_features: int) -> None:
    dims = AttentionDims(num_heads=2, head_dim=8, causal=False)
    built = variant(dims=dims, num_features=num_features)
    assert built(torch.randn(1, 2, 5, 8)).shape[-1] == built.feature_dim
    assert built.feature_dim in (num_features, 2 * num_features)


def test_a_wide_hedgehog_starts_at_the_identity_followed_by_orthogonal_blocks_of_each_head() -> None:
    dims = AttentionDims(num_heads=2, head_dim=8, causal=False)
    weight = HedgehogFeatureMap(dims=dims, num_features=20).projection.weight.detach()
    assert torch.equal(weight[:, :8], torch.eye(8).expand(2, 8, 8))
    block = weight[:, 8:16]
    torch.testing.assert_close(block @ block.mT, torch.eye(8).expand(2, 8, 8))
    assert not torch.allclose(block[0], block[1])
    # Queries and keys must start with the same rows, or their features would not meet.
    attention = LinearAttention(dims, functools.partial(HedgehogFeatureMap, num_features=20))
    assert torch.equal(attention.query_map.projection.weight, attention.key_map.projection.weight)


def test_a_number_of_features_below_one_is_refused() -> None:
    with pytest.raises(ValueError, match="num_features must be >= 1 or null, got 0"):
        HedgehogFeatureMap(dims=AttentionDims(num_heads=1, head_dim=8, causal=False), num_features=0)


@pytest.mark.parametrize("feature_map", [*LOG_MAPS, EluFeatureMap(DIMS)], ids=lambda m: type(m).__name__)
@pytest.mark.parametrize("size", [0.01, 1.0, 30.0])
def test_no_exponent_exceeds_the_bound(feature_map: LogFeatureMap, size: float) -> None:
    feature_map = shuffle(feature_map)
    x = size * inputs()
    bound = feature_map.log_bound(x)
    assert bound.ndim == 0
    assert bound >= feature_map.log_features(x).abs().amax()
    x[0, 0, 0, 0] = torch.nan
    assert feature_map.log_bound(x).isnan()


@pytest.mark.parametrize("batch", [1, 3])
@pytest.mark.parametrize("tokens", [1, 5])
@pytest.mark.parametrize("options", [{}, {"scale_inputs": True}, {"per_head": False}, {"bias": False}], ids=str)
def test_features_without_gradients_are_the_same(batch: int, tokens: int, options: dict[str, bool]) -> None:
    feature_map = shuffle(HedgehogFeatureMap(DIMS, **options))
    x = torch.randn(batch, DIMS.num_heads, tokens, DIMS.head_dim, dtype=torch.float64)
    expected = feature_map(x)
    with torch.no_grad():
        torch.testing.assert_close(feature_map(x), expected, rtol=1e-14, atol=0)
