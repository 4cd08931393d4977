"""What every shipped attention promises: parametrised by the files in conf/attn."""

import math
from functools import partial
from pathlib import Path

import jaxtyping
import pytest
import torch
from hydra.utils import instantiate
from memory import LargestTensor
from omegaconf import OmegaConf
from torch import Tensor

from mimicry.attention import (
    Attention,
    AttentionDims,
    LinearAttention,
    SlidingWindowAttention,
    SoftmaxAttention,
    WindowLinearAttention,
)
from mimicry.attention.feature_maps.elu import EluFeatureMap

VARIANTS = sorted((Path(__file__).parents[2] / "conf" / "attn").glob("*.yaml"))
LINEAR = [path for path in VARIANTS if path.stem not in ("softmax", "sliding_window")]
LEARNT = [path for path in VARIANTS if path.stem in ("hedgehog", "hedgehog_softmax", "t2r", "window_hedgehog")]

every_variant = pytest.mark.parametrize("variant", VARIANTS, ids=lambda path: path.stem)
every_linear = pytest.mark.parametrize("variant", LINEAR, ids=lambda path: path.stem)
every_learnt = pytest.mark.parametrize("variant", LEARNT, ids=lambda path: path.stem)
both_directions = pytest.mark.parametrize("causal", [False, True], ids=["bidirectional", "causal"])

# How far outputs of order 1 may be off. Both sides round the inputs alike; half precision rounds the output once.
TOLERANCE = {torch.float64: 1e-12, torch.float32: 1e-5, torch.float16: 2e-3, torch.bfloat16: 1.6e-2}
close64 = partial(torch.testing.assert_close, rtol=1e-12, atol=1e-12)


def build(variant: Path, causal: bool, dtype: torch.dtype = torch.float64) -> Attention:
    """A layer as after some training: learnt maps moved off their initial state, queries' and keys' apart."""
    attn = instantiate(OmegaConf.load(variant))(dims=AttentionDims(4, 16, causal)).to(dtype)
    with torch.no_grad():
        for parameter in attn.parameters():
            parameter.add_(0.2 * torch.randn_like(parameter))
    return attn


def states(tokens: int, dtype: torch.dtype = torch.float64) -> Tensor:
    """q, k and v for 2 examples."""
    return torch.randn(3, 2, 4, tokens, 16, dtype=dtype)


def padding(*lengths: int, tokens: int) -> Tensor:
    """True for the first `length` tokens of each example."""
    return torch.arange(tokens) < torch.tensor(lengths)[:, None]


def written_out(attn: Attention, q: Tensor, k: Tensor, v: Tensor, key_mask: Tensor | None = None) -> Tensor:
    """Attention by its definition, one plain matrix product after another."""
    n, m = q.shape[2], k.shape[2]
    if isinstance(attn, LinearAttention):
        phi_q = attn.query_map(q, start=m - n if attn.dims.causal else 0)
        scores = phi_q @ attn.key_map(k).transpose(-1, -2)
    else:
        scores = (q @ k.transpose(-1, -2) / math.sqrt(q.shape[-1])).exp()
    if isinstance(attn, SlidingWindowAttention | WindowLinearAttention):
        beyond = 0.0
        if isinstance(attn, WindowLinearAttention):
            scores, beyond = attn.log_mixing.exp() * scores, attn.query_map(q) @ attn.key_map(k).transpose(-1, -2)
        at = torch.arange(n)[:, None] + (m - n if attn.dims.causal else 0)
        near = (torch.arange(m) - at).abs() < attn.window.size
        present = torch.ones(q.shape[0], m, dtype=torch.bool) if key_mask is None else key_mask
        near = near | (present.cumsum(dim=1) <= attn.window.num_sinks)[:, None, None, :]
        scores = scores * near + beyond * ~near
    if attn.dims.causal:
        scores = scores * (torch.arange(m) <= torch.arange(m - n, m)[:, None])
    if key_mask is not None:
        scores = scores * key_mask[:, None, None, :]
    return scores / scores.sum(dim=-1, keepdim=True) @ v


@every_variant
@both_directions
@pytest.mark.parametrize("dtype", TOLERANCE, ids=str)
@pytest.mark.parametrize("padded", [False, True], ids=["full", "padded"])
def test_forward_equals_weights_times_values(variant: Path, causal: bool, dtype: torch.dtype, padded: bool) -> None:
    attn, (q, k, v) = build(variant, causal, dtype), states(11, dtype)
    key_mask = padding(11, 6, tokens=11) if padded else None
    outputs, weights = attn(q, k, v, key_mask), attn.weights(q, k, key_mask)
    assert outputs.dtype == dtype
    expected = (weights @ v.to(weights.dtype)).to(dtype)
    torch.testing.assert_close(outputs, expected, rtol=TOLERANCE[dtype], atol=TOLERANCE[dtype])


@every_variant
@both_directions
@pytest.mark.parametrize(
    ("queries", "keys"),
    [(1, 1), (63, 63), (64, 64), (65, 65), (200, 200), (1, 65), (3, 66), (64, 65), (65, 200), (129, 130)],
)
def test_outputs_and_weights_equal_the_written_out_definition(
    variant: Path, causal: bool, queries: int, keys: int
) -> None:
    attn, (q, k, v) = build(variant, causal), states(keys)
    q = q[:, :, -queries:]
    key_mask = padding(keys, max(1, keys - queries + 1), tokens=keys)
    for mask in (None, key_mask):
        expected = written_out(attn, q, k, v, mask)
        close64(attn(q, k, v, mask), expected, rtol=1e-10, atol=1e-12)
        close64(attn.weights(q, k, mask) @ v, expected, rtol=1e-10, atol=1e-12)


@every_linear
@pytest.mark.parametrize("queries", [1, 5])
def test_more_queries_than_keys_are_fine_without_causality(variant: Path, queries: int) -> None:
    attn, (q, k, v) = build(variant, causal=False), states(queries + 3)
    k, v = k[:, :, :queries], v[:, :, :queries]
    close64(attn(q, k, v), written_out(attn, q, k, v))


@every_variant
@both_directions
@pytest.mark.parametrize("dtype", TOLERANCE, ids=str)
def test_weights_are_distributions_over_the_visible_keys(variant: Path, causal: bool, dtype: torch.dtype) -> None:
    attn, (q, k, _) = build(variant, causal, dtype), states(9, dtype)
    key_mask = padding(9, 4, tokens=9)
    weights = attn.weights(q, k, key_mask)
    assert weights.dtype == torch.promote_types(dtype, torch.float32)
    assert (weights >= 0).all()
    visible = key_mask[:, None, None, :].expand(2, 4, 9, 9)
    if causal:
        visible = visible & torch.ones(9, 9, dtype=torch.bool).tril()
    assert (weights[~visible] == 0).all()
    assert (weights[visible] > 0).all()
    sums = weights.sum(dim=-1)
    torch.testing.assert_close(sums, torch.ones_like(sums), rtol=0, atol=1e-12 if dtype == torch.float64 else 1e-6)


@every_variant
@both_directions
@pytest.mark.parametrize("padded", [False, True], ids=["full", "padded"])
def test_log_weights_are_the_logarithm_of_the_weights(variant: Path, causal: bool, padded: bool) -> None:
    attn, (q, k, _) = build(variant, causal), states(70)
    leaves = [q.requires_grad_(), k.requires_grad_(), *attn.parameters()]
    key_mask = torch.stack([torch.arange(70) >= 3, torch.zeros(70, dtype=torch.bool)]) if padded else None
    weights, log_weights = attn.weights(q, k, key_mask), attn.log_weights(q, k, key_mask)
    assert log_weights.isfinite().all()
    visible = weights > 0
    close64(log_weights[visible], weights[visible].log())
    direction = torch.rand_like(weights) * visible
    actual = torch.autograd.grad((direction * log_weights).sum(), leaves)
    expected = torch.autograd.grad((direction * weights.clamp(min=1e-300).log()).sum(), leaves)
    for gradient, reference in zip(actual, expected, strict=True):
        close64(gradient, reference, rtol=1e-9, atol=1e-9)


@every_variant
@both_directions
@pytest.mark.parametrize("size", [1.0, 10.0, 100.0])
def test_log_weights_of_any_size_are_finite_and_so_are_their_gradients(
    variant: Path, causal: bool, size: float
) -> None:
    attn, (q, k, _) = build(variant, causal, torch.float32), size * states(30, torch.float32)
    leaves = [q.requires_grad_(), k.requires_grad_(), *attn.parameters()]
    log_weights = attn.log_weights(q, k, padding(30, 20, tokens=30))
    assert log_weights.dtype == torch.float32
    assert log_weights.isfinite().all()
    for gradient in torch.autograd.grad(log_weights.mean(), leaves):
        assert gradient.isfinite().all()


@every_variant
@both_directions
@pytest.mark.parametrize("size", [0.0, 3.0, 1e4, 1e30])
def test_what_lies_behind_masked_keys_does_not_matter(variant: Path, causal: bool, size: float) -> None:
    attn, (q, k, v) = build(variant, causal, torch.float32), states(70, torch.float32)
    key_mask = torch.rand(2, 70) > 0.4
    key_mask[:, 0] = True
    hidden = ~key_mask[:, None, :, None]
    other_k = torch.where(hidden, size * torch.randn_like(k), k).requires_grad_()
    other_v = torch.where(hidden, size * torch.randn_like(v), v)
    outputs = attn(q, other_k, other_v, key_mask)
    torch.testing.assert_close(outputs, attn(q, k, v, key_mask), rtol=1e-6, atol=1e-6)
    torch.testing.assert_close(attn.weights(q, other_k, key_mask), attn.weights(q, k, key_mask), rtol=1e-6, atol=1e-6)
    (gradient,) = torch.autograd.grad(outputs.square().sum(), other_k)
    assert gradient.isfinite().all()
    assert (gradient.masked_select(hidden) == 0).all()


@every_variant
@both_directions
@pytest.mark.parametrize("longer", [1, 60])
def test_padding_a_batch_further_leaves_real_tokens_unchanged(variant: Path, causal: bool, longer: int) -> None:
    attn, padded = build(variant, causal), states(9 + longer)
    short = padded[:, :, :, :9]
    outputs = attn(*short, padding(9, 5, tokens=9))
    longer_outputs = attn(*padded, padding(9, 5, tokens=9 + longer))
    close64(longer_outputs[:, :, :9], outputs)
    # And an example alone, unpadded, has the outputs that it has in a batch.
    close64(attn(*short[:, 1:, :, :5]), longer_outputs[1:, :, :5])


@every_variant
@pytest.mark.parametrize("tokens", [1, 63, 64, 65])
def test_appending_tokens_leaves_earlier_causal_outputs_unchanged(variant: Path, tokens: int) -> None:
    attn, (q, k, v) = build(variant, causal=True), states(130)
    close64(attn(q, k, v)[:, :, :tokens], attn(q[:, :, :tokens], k[:, :, :tokens], v[:, :, :tokens]))
    close64(attn.weights(q, k)[:, :, :tokens, :tokens], attn.weights(q[:, :, :tokens], k[:, :, :tokens]))


@every_variant
def test_generating_token_by_token_gives_the_outputs_of_one_pass(variant: Path) -> None:
    attn, (q, k, v) = build(variant, causal=True), states(5)
    steps = [attn(q[:, :, i : i + 1], k[:, :, : i + 1], v[:, :, : i + 1]) for i in range(5)]
    close64(torch.cat(steps, dim=2), attn(q, k, v))


@every_variant
@both_directions
def test_gradients_are_those_of_weights_times_values(variant: Path, causal: bool) -> None:
    attn, (q, k, v) = build(variant, causal), states(70)
    leaves = [x.clone().requires_grad_() for x in (q, k, v)] + list(attn.parameters())
    key_mask = padding(70, 40, tokens=70)
    q, k, v = leaves[:3]
    direction = torch.randn(2, 4, 70, 16, dtype=torch.float64)
    actual = torch.autograd.grad((attn(q, k, v, key_mask) * direction).sum(), leaves)
    expected = torch.autograd.grad((attn.weights(q, k, key_mask) @ v * direction).sum(), leaves)
    for gradient, reference in zip(actual, expected, strict=True):
        assert gradient.isfinite().all()
        close64(gradient, reference, rtol=1e-9, atol=1e-11)


@every_linear
@both_directions
def test_gradients_are_those_of_the_written_out_definition(variant: Path, causal: bool) -> None:
    attn, (q, k, v) = build(variant, causal), states(12)
    leaves = [x.clone().requires_grad_() for x in (q, k, v)] + list(attn.parameters())
    q, k, v = leaves[:3]
    actual = torch.autograd.grad(attn(q, k, v).square().sum(), leaves)
    expected = torch.autograd.grad(written_out(attn, q, k, v).square().sum(), leaves)
    for gradient, reference in zip(actual, expected, strict=True):
        close64(gradient, reference, rtol=1e-9, atol=1e-11)


@every_learnt
@both_directions
def test_every_head_of_every_parameter_learns(variant: Path, causal: bool) -> None:
    attn, (q, k, v) = build(variant, causal), states(20)
    attn(q, k, v).square().sum().backward()
    for name, parameter in attn.named_parameters():
        assert parameter.grad is not None, name
        assert (parameter.grad.flatten(1).abs().sum(dim=1) > 0).all(), name


def test_only_the_learnt_variants_have_parameters() -> None:
    assert [path for path in VARIANTS if list(build(path, causal=False).parameters())] == LEARNT


@every_variant
def test_two_layers_of_one_factory_share_no_parameter_and_no_buffer(variant: Path) -> None:
    factory, dims = instantiate(OmegaConf.load(variant)), AttentionDims(4, 16, False)
    layers = [factory(dims=dims) for _ in range(2)]
    first, second = (
        {tensor.untyped_storage().data_ptr() for tensor in (*layer.parameters(), *layer.buffers())} for layer in layers
    )
    assert first.isdisjoint(second)
    assert {id(module) for module in layers[0].modules()}.isdisjoint(id(module) for module in layers[1].modules())


@every_linear
def test_queries_and_keys_start_with_equal_but_separate_maps(variant: Path) -> None:
    attn = instantiate(OmegaConf.load(variant))(dims=AttentionDims(4, 16, False))
    assert attn.query_map is not attn.key_map
    torch.testing.assert_close(attn.query_map.state_dict(), attn.key_map.state_dict(), rtol=0, atol=0)
    pairs = zip(attn.query_map.state_dict().values(), attn.key_map.state_dict().values(), strict=True)
    assert all(a.data_ptr() != b.data_ptr() for a, b in pairs)
    x = torch.randn(2, 4, 7, 16)
    torch.testing.assert_close(attn.query_map(x), attn.key_map(x), rtol=0, atol=0)


@every_linear
def test_tied_maps_are_one_and_the_same(variant: Path) -> None:
    config = OmegaConf.merge(OmegaConf.load(variant), {"tie_maps": True})
    attn = instantiate(config)(dims=AttentionDims(4, 16, False))
    assert attn.query_map is attn.key_map
    assert not any("key_map" in name for name, _ in attn.named_parameters())


def test_softmax_has_no_feature_map() -> None:
    layers = {path.stem: build(path, causal=False) for path in set(VARIANTS) - set(LINEAR)}
    assert {name: type(attn) for name, attn in layers.items()} == {
        "softmax": SoftmaxAttention,
        "sliding_window": SlidingWindowAttention,
    }
    for attn in layers.values():
        assert not hasattr(attn, "query_map")
        assert list(attn.state_dict()) == []


@every_linear
@pytest.mark.parametrize(("heads", "width"), [(1, 1), (3, 8), (2, 64)])
def test_feature_dim_is_what_it_claims(variant: Path, heads: int, width: int) -> None:
    attn = instantiate(OmegaConf.load(variant))(dims=AttentionDims(heads, width, False))
    for feature_map in (attn.query_map, attn.key_map):
        assert feature_map(torch.randn(2, heads, 5, width)).shape == (2, heads, 5, feature_map.feature_dim)


@every_linear
def test_features_have_non_negative_products(variant: Path) -> None:
    attn, (q, k, _) = build(variant, causal=False), states(50)
    phi_q, phi_k = attn.query_map(3 * q), attn.key_map(3 * k)
    assert (phi_q @ phi_k.transpose(-1, -2) >= 0).all()
    # Taylor's linear terms have either sign; only its sums of them are bounded below.
    if variant.stem != "taylor":
        assert (phi_q >= 0).all()
        assert (phi_k >= 0).all()


@every_variant
@both_directions
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32], ids=str)
def test_a_query_without_visible_keys_gets_zeros_and_finite_gradients(
    variant: Path, causal: bool, dtype: torch.dtype
) -> None:
    attn = build(variant, causal, dtype)
    q, k, v = leaves = [x.clone().requires_grad_() for x in states(70, dtype)]
    # The first example is padded on the left, the second has nothing but padding.
    key_mask = torch.stack([torch.arange(70) >= 3, torch.zeros(70, dtype=torch.bool)])
    blind = torch.zeros(2, 1, 70, 1, dtype=torch.bool)
    blind[0, :, :3], blind[1] = causal, True
    outputs, weights = attn(q, k, v, key_mask), attn.weights(q, k, key_mask)
    for x in (outputs, weights):
        assert (x.masked_select(blind) == 0).all()
        assert x.isfinite().all()
    assert (outputs.masked_select(~blind) != 0).all()
    for loss in (outputs.square().sum(), (weights @ v).square().sum()):
        for gradient in torch.autograd.grad(loss, [*leaves, *attn.parameters()]):
            assert gradient.isfinite().all()


@every_linear
@both_directions
def test_autocast_does_not_lower_the_precision(variant: Path, causal: bool) -> None:
    attn, (q, k, v) = build(variant, causal, torch.float32), 2 * states(20, torch.float32)
    outputs, weights, log_weights = attn(q, k, v), attn.weights(q, k), attn.log_weights(q, k)
    with torch.autocast("cpu", torch.bfloat16):
        torch.testing.assert_close(attn(q, k, v), outputs, rtol=0, atol=0)
        torch.testing.assert_close(attn.weights(q, k), weights, rtol=0, atol=0)
        torch.testing.assert_close(attn.log_weights(q, k), log_weights, rtol=0, atol=0)


def test_autocast_does_not_lower_the_precision_of_softmax_weights() -> None:
    attn, (q, k, _) = SoftmaxAttention(AttentionDims(4, 16, False)), 2 * states(20, torch.float32)
    weights = attn.weights(q, k)
    with torch.autocast("cpu", torch.bfloat16):
        torch.testing.assert_close(attn.weights(q, k), weights, rtol=0, atol=0)


WRONG = {
    "q_rank": (lambda q, k, v: (q[0], k, v), r"q must be \(batch, 4, tokens, 16\), got \(4, 6, 16\)"),
    "k_rank": (lambda q, k, v: (q, k[0], v), r"k must be \(batch, 4, tokens, 16\), got \(4, 6, 16\)"),
    "head_dim": (lambda q, k, v: (q[..., :8], k[..., :8], v), r"q must be .*, got \(2, 4, 6, 8\)"),
    "heads": (lambda q, k, v: (q, k[:, :2], v[:, :2]), r"k must be .*, got \(2, 2, 6, 16\)"),
    "mask_dtype": (lambda q, k, v: (q, k, v, torch.ones(2, 6)), r"key_mask must be bool of .*, got torch.float32"),
    "mask_tokens": (lambda q, k, v: (q, k, v, torch.ones(2, 5).bool()), r"key_mask must be .*\(2, 6\), got .*\(2, 5\)"),
    "mask_batch": (lambda q, k, v: (q, k, v, torch.ones(1, 6).bool()), r"key_mask must be .*\(2, 6\), got .*\(1, 6\)"),
    "mask_rank": (
        lambda q, k, v: (q, k, v, torch.ones(2, 1, 1, 6).bool()),
        r"key_mask must be .*, got .*\(2, 1, 1, 6\)",
    ),
}


@pytest.mark.usefixtures("without_shape_hook")
@every_variant
@both_directions
@pytest.mark.parametrize("wrong", WRONG)
def test_inputs_that_do_not_fit_are_refused_in_one_line(variant: Path, causal: bool, wrong: str) -> None:
    attn, (change, message) = build(variant, causal), WRONG[wrong]
    q, k, v, *mask = change(*states(6))
    with pytest.raises(ValueError, match=rf"^{message}[^\n]*$"):
        attn(q, k, v, *mask)
    with pytest.raises(ValueError, match=rf"^{message}[^\n]*$"):
        attn.weights(q, k, *mask)


@every_variant
def test_more_queries_than_keys_are_refused_when_causal(variant: Path) -> None:
    attn, (q, k, v) = build(variant, causal=True), states(6)
    message = r"^q must have at most as many tokens as k \(5\) when causal, got 6$"
    with pytest.raises(ValueError, match=message):
        attn(q, k[:, :, :5], v[:, :, :5])
    with pytest.raises(ValueError, match=message):
        attn.weights(q, k[:, :, :5])


@every_variant
def test_sequences_beyond_the_maximum_length_are_refused(variant: Path) -> None:
    attn = build(variant, causal=True)
    assert attn.max_length == (512 if variant.stem == "cosformer" else None)
    q, k, v = torch.zeros(3, 1, 4, 513, 16, dtype=torch.float64)
    if attn.max_length is None:
        attn(q, k, v)
    else:
        # Also for a few queries at the end.
        with pytest.raises(ValueError, match=r"^sequence length must be <= max_length = 512, got 513$"):
            attn(q[:, :, :1], k, v)


@pytest.mark.parametrize("name", ["num_heads", "head_dim"])
def test_dimensions_below_one_are_refused(name: str) -> None:
    with pytest.raises(ValueError, match=rf"^{name} must be >= 1, got 0$"):
        AttentionDims(**({"num_heads": 4, "head_dim": 16, "causal": False} | {name: 0}))


@pytest.mark.parametrize("eps", [0.0, -1.0])
def test_a_normaliser_without_floor_is_refused(eps: float) -> None:
    with pytest.raises(ValueError, match=rf"^eps must be > 0, got {eps}$"):
        LinearAttention(AttentionDims(4, 16, False), EluFeatureMap, eps=eps)


def test_the_suite_checks_shapes_at_every_call() -> None:
    attn, (q, k, v) = SoftmaxAttention(AttentionDims(4, 16, False)), states(6)
    with pytest.raises(jaxtyping.TypeCheckError):
        attn(q, k, v[:, :, :5])


@every_variant
@both_directions
def test_outputs_and_gradients_never_hold_weights_of_all_pairs(variant: Path, causal: bool) -> None:
    tokens, width = 1024, 8
    attn = instantiate(OmegaConf.load(variant))(dims=AttentionDims(1, width, causal))
    if attn.max_length is not None:
        tokens = attn.max_length
    q, k, v = torch.randn(3, 1, 1, tokens, width).requires_grad_()
    with LargestTensor() as seen:
        attn(q, k, v).sum().backward()
    assert tokens * width <= seen.largest <= tokens**2 / 4
    with LargestTensor() as seen:
        attn.weights(q, k)
    assert seen.largest >= tokens**2
