"""The chunked form with its own backward pass: equal to the quadratic reference, flat in memory, exact at any size."""

import logging
import threading
from functools import partial

import pytest
import torch
from memory import LargestTensor
from torch import Tensor

from mimicry.attention import AttentionDims, LinearAttention, backend, streaming
from mimicry.attention.feature_maps.base import FeatureMap
from mimicry.attention.feature_maps.cosformer import CosformerFeatureMap
from mimicry.attention.feature_maps.elu import EluFeatureMap
from mimicry.attention.feature_maps.hedgehog import HedgehogFeatureMap
from mimicry.attention.feature_maps.hedgehog_softmax import HedgehogSoftmaxFeatureMap
from mimicry.attention.feature_maps.t2r import T2RFeatureMap
from mimicry.attention.feature_maps.taylor import TaylorFeatureMap

HEADS, WIDTH = 3, 8
MAPS = {
    "hedgehog": HedgehogFeatureMap,
    "wide": partial(HedgehogFeatureMap, num_features=12),
    "shared": partial(HedgehogFeatureMap, per_head=False, bias=False, scale_inputs=True),
    "softmax": HedgehogSoftmaxFeatureMap,
    "t2r": T2RFeatureMap,
    "elu": EluFeatureMap,
    "cosformer": partial(CosformerFeatureMap, max_length=700),
    "taylor": TaylorFeatureMap,
}
# How far outputs and gradients of order 1 may be off.
TOLERANCE = {torch.float64: 1e-10, torch.float32: 2e-5, torch.float16: 4e-3, torch.bfloat16: 3e-2}

every_map = pytest.mark.parametrize("name", MAPS)
both_directions = pytest.mark.parametrize("causal", [False, True], ids=["bidirectional", "causal"])


def layer(name: str, causal: bool, dtype: torch.dtype = torch.float64, tie_maps: bool = False) -> LinearAttention:
    """A layer as after some training."""
    attn = LinearAttention(AttentionDims(HEADS, WIDTH, causal), MAPS[name], tie_maps, backend="chunked").to(dtype)
    with torch.no_grad():
        for parameter in attn.parameters():
            parameter.add_(0.2 * torch.randn_like(parameter))
    return attn


def states(batch: int, tokens: int, dtype: torch.dtype = torch.float64) -> list[Tensor]:
    """q, k and v; the values are wider than the heads."""
    widths = (WIDTH, WIDTH, WIDTH + 3)
    return [torch.randn(batch, HEADS, tokens, width, dtype=dtype).requires_grad_() for width in widths]


def run(attn: LinearAttention, form: str, inputs: list[Tensor], mask: Tensor | None) -> list[Tensor]:
    """Outputs, then the gradients of q, k, v and of every trained parameter."""
    attn.backend = form
    outputs = attn(*inputs, mask)
    direction = torch.linspace(-1, 1, outputs.numel(), dtype=torch.float64).view_as(outputs).to(outputs.dtype)
    learnt = [parameter for parameter in attn.parameters() if parameter.requires_grad]
    return [outputs, *torch.autograd.grad(outputs, [*inputs, *learnt], direction)]


def check(attn: LinearAttention, inputs: list[Tensor], mask: Tensor | None, tolerance: float) -> None:
    for actual, expected in zip(run(attn, "chunked", inputs, mask), run(attn, "reference", inputs, mask), strict=True):
        assert actual.dtype == expected.dtype
        scale = max(1.0, float(expected.detach().abs().max())) if expected.numel() else 1.0
        torch.testing.assert_close(actual, expected, rtol=0, atol=tolerance * scale)


@every_map
@both_directions
@pytest.mark.parametrize("tokens", [1, 2, 63, 64, 65, 512, 577])
def test_outputs_and_gradients_are_those_of_the_reference(name: str, causal: bool, tokens: int) -> None:
    check(layer(name, causal), states(2, tokens), None, TOLERANCE[torch.float64])


@every_map
@both_directions
def test_padding_on_either_side_and_in_between_is_honoured(name: str, causal: bool) -> None:
    mask = torch.rand(4, 150) > 0.3
    mask[0] = torch.arange(150) < 70
    mask[1] = torch.arange(150) >= 70
    mask[2] = False
    outputs = layer(name, causal)(*states(4, 150), mask)
    assert (outputs[2] == 0).all()
    check(layer(name, causal), states(4, 150), mask, TOLERANCE[torch.float64])


@every_map
@both_directions
@pytest.mark.parametrize("dtype", TOLERANCE, ids=str)
def test_every_precision_keeps_to_its_tolerance(name: str, causal: bool, dtype: torch.dtype) -> None:
    attn = layer(name, causal).to(dtype).double()
    inputs = [x.detach().to(dtype) for x in states(2, 200)]
    expected = run(attn, "reference", [x.double().requires_grad_() for x in inputs], None)
    actual = run(attn.to(dtype), "chunked", [x.requires_grad_() for x in inputs], None)
    for ours, exact in zip(actual[:4], expected[:4], strict=True):
        assert ours.dtype == dtype
        scale = max(1.0, float(exact.detach().abs().max()))
        torch.testing.assert_close(ours.double(), exact, rtol=0, atol=TOLERANCE[dtype] * scale)


@both_directions
def test_no_tokens_are_no_outputs_and_no_gradients(causal: bool) -> None:
    inputs = states(2, 0)
    results = run(layer("hedgehog", causal), "chunked", inputs, None)
    assert [x.shape for x in results[:4]] == [inputs[2].shape, *(x.shape for x in inputs)]
    assert all((x == 0).all() for x in results[4:])


@both_directions
@pytest.mark.parametrize("batch", [1, 5])
def test_batches_are_cut_where_a_block_is_full(causal: bool, batch: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(streaming, "FEATURES", 2 * HEADS * 128 * 2 * WIDTH)
    slices = list(streaming.batches(torch.Size((batch, HEADS)), 128, 2 * WIDTH))
    assert [(rows.start, length) for rows, length in slices] == [(first, 128) for first in range(0, batch, 2)]
    mask = torch.rand(batch, 200) > 0.3
    check(layer("hedgehog", causal), states(batch, 200), mask, TOLERANCE[torch.float64])


@both_directions
def test_tied_maps_add_up_what_queries_and_keys_ask_for(causal: bool) -> None:
    attn = layer("hedgehog", causal, tie_maps=True)
    assert len(list(attn.parameters())) == 2
    check(attn, states(2, 100), None, TOLERANCE[torch.float64])


@both_directions
@pytest.mark.parametrize("size", [1.0, 40.0])
def test_frozen_maps_get_no_gradient_and_inputs_the_same(causal: bool, size: float) -> None:
    attn = layer("hedgehog", causal)
    attn.query_map.requires_grad_(False)
    q, k, v = states(2, 100)
    check(attn, [(size * q).detach().requires_grad_(), k, v], None, 1e-9)
    attn(q, k, v).sum().backward()
    assert all(parameter.grad is None for parameter in attn.query_map.parameters())
    assert all(parameter.grad is not None for parameter in attn.key_map.parameters())


@both_directions
def test_layouts_other_than_contiguous_are_read_as_they_are(causal: bool) -> None:
    inputs = [torch.randn(2, 90, HEADS, WIDTH, dtype=torch.float64).transpose(1, 2).requires_grad_() for _ in range(3)]
    check(layer("hedgehog", causal), inputs, None, TOLERANCE[torch.float64])


@pytest.mark.parametrize(("queries", "keys"), [(3, 130), (130, 3), (65, 64)])
def test_bidirectional_queries_and_keys_differ_in_number(queries: int, keys: int) -> None:
    q, _, _ = states(2, queries)
    _, k, v = states(2, keys)
    check(layer("hedgehog", causal=False), [q, k, v], None, TOLERANCE[torch.float64])


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_a_long_causal_sequence_keeps_its_precision(dtype: torch.dtype) -> None:
    tokens, dims = 65_537, AttentionDims(1, 2, causal=True)
    attn = LinearAttention(dims, HedgehogFeatureMap, backend="chunked")
    q, k, v = torch.randn(3, 1, 1, tokens, 2).to(dtype)
    phi_q, phi_k, values = attn.query_map.double()(q.double()), attn.key_map.double()(k.double()), v.double()
    kv = (phi_k[..., :, None] * values[..., None, :]).cumsum(dim=2)
    exact = torch.einsum("bhnf,bhnfe->bhne", phi_q, kv) / (phi_q * phi_k.cumsum(dim=2)).sum(-1, keepdim=True)
    outputs = attn.float()(q, k, v)
    tolerance = 1e-5 if dtype == torch.float32 else 4e-3 * float(exact.detach().abs().max())
    torch.testing.assert_close(outputs.double(), exact.detach(), rtol=0, atol=tolerance)


@both_directions
def test_memory_of_a_training_step_does_not_grow_with_pairs_or_features(causal: bool) -> None:
    tokens = 4096
    with LargestTensor() as seen:
        run(layer("hedgehog", causal, torch.float32), "chunked", states(1, tokens, torch.float32), None)
    inputs, block = HEADS * tokens * (WIDTH + 3), HEADS * 512 * 2 * WIDTH
    assert seen.largest <= max(inputs, 2 * block)


@pytest.mark.parametrize("name", ["hedgehog", "elu", "softmax"])
@both_directions
@pytest.mark.parametrize("size", [40.0, 170.0])
def test_exponents_beyond_float32_leave_outputs_and_gradients_exact(name: str, causal: bool, size: float) -> None:
    attn, (q, k, v) = layer(name, causal), states(2, 150)
    inputs = [(size * x).detach().clamp(-170, 170).requires_grad_() for x in (q, k)] + [v]
    expected = run(attn, "reference", inputs, None)
    actual = run(attn.float(), "chunked", [x.detach().float().requires_grad_() for x in inputs], None)
    assert all(x.isfinite().all() for x in actual)
    # An exponent of 170 is itself rounded by 1e-5 in float32.
    torch.testing.assert_close(actual[0].double(), expected[0], rtol=0, atol=2e-3)


def test_keys_that_grow_along_the_sequence_take_the_way_without_a_common_shift(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(backend, "_announced", set())
    attn, (q, k, v) = layer("hedgehog", causal=True), states(1, 200)
    grown = (k * torch.linspace(1, 120, 200)[:, None]).detach().requires_grad_()
    with caplog.at_level(logging.INFO, logger="mimicry"):
        check(attn, [q, grown, v], None, 1e-8)
    assert "grow by more than e^60" in caplog.text


@both_directions
@pytest.mark.parametrize("which", [0, 1, 2])
def test_nan_is_not_hidden(causal: bool, which: int) -> None:
    inputs = [x.detach() for x in states(1, 100, torch.float32)]
    inputs[which][0, 1, 40, 2] = torch.nan
    outputs = layer("hedgehog", causal, torch.float32)(*inputs)
    assert outputs[0, 1, 40].isnan().any()
    assert outputs[0, 0].isfinite().all()


def test_results_do_not_share_memory_with_later_calls() -> None:
    attn, first, second = layer("hedgehog", causal=True), states(1, 100), states(1, 100)
    kept = run(attn, "chunked", first, None)
    copies = [x.clone() for x in kept]
    run(attn, "chunked", second, None)
    run(layer("elu", causal=False), "chunked", second, None)
    for x, copied in zip(kept, copies, strict=True):
        assert torch.equal(x, copied)


@both_directions
@pytest.mark.parametrize("size", [1.0, 40.0])
def test_validation_in_inference_mode_and_training_follow_one_another(causal: bool, size: float) -> None:
    # A length of its own, so that the first call makes the buffers.
    attn, (q, k, v) = layer("hedgehog", causal, torch.float32), states(1, 1003, torch.float32)
    inputs = [(size * q).detach().requires_grad_(), (size * k).detach().requires_grad_(), v]
    with torch.inference_mode():
        measured = attn(*inputs)
    trained = run(attn, "chunked", inputs, None)[0]
    with torch.inference_mode():
        again = attn(*inputs)
    assert torch.equal(measured, trained)
    assert torch.equal(again, trained)


def test_threads_have_scratch_memory_of_their_own() -> None:
    attn = layer("hedgehog", causal=True)
    inputs = [[x.detach() for x in states(1, 300)] for _ in range(4)]
    expected = [attn(*each) for each in inputs]
    found: dict[int, bool] = {}

    def work(which: int) -> None:
        found[which] = all(torch.equal(attn(*inputs[which]), expected[which]) for _ in range(10))

    threads = [threading.Thread(target=work, args=(which,)) for which in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert found == dict.fromkeys(range(4), True)


def test_a_map_without_a_closed_form_backward_gets_one_from_autograd() -> None:
    class Odd(FeatureMap):
        def __init__(self, dims: AttentionDims) -> None:
            super().__init__(feature_dim=dims.head_dim)
            self.a = torch.nn.Parameter(torch.tensor(0.7))
            self.unused = torch.nn.Parameter(torch.tensor(1.0))

        def forward(self, x: Tensor, start: int = 0) -> Tensor:
            return (self.a * x).square() + 0.1

    attn = LinearAttention(AttentionDims(HEADS, WIDTH, causal=True), Odd, backend="chunked").double()
    inputs = states(2, 70)
    attn.backend = "reference"
    expected = torch.autograd.grad(attn(*inputs).square().sum(), [*inputs, attn.query_map.a, attn.key_map.a])
    attn.backend = "chunked"
    actual = torch.autograd.grad(attn(*inputs).square().sum(), [*inputs, attn.query_map.a, attn.key_map.a])
    for ours, theirs in zip(actual, expected, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-9, atol=1e-9)
