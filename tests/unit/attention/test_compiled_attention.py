"""Whole sequences through the kernels in C: outputs and gradients of float64, masks, layouts, ranges, states."""

import math
import shutil
from functools import partial

import pytest
import torch
from torch import Tensor

from mimicry.attention import AttentionDims, LinearAttention, forms
from mimicry.attention.cpu import hedgehog
from mimicry.attention.cpu.hedgehog import Kernels, OutOfRangeError
from mimicry.attention.feature_maps.hedgehog import HedgehogFeatureMap
from mimicry.attention.inputs import Tokens

pytestmark = pytest.mark.skipif(shutil.which("cc") is None, reason="there is no C compiler here")

HEADS = 3
FORMS = {
    "plain": {},
    "no bias": {"bias": False},
    "one map": {"per_head": False},
    "scaled": {"scale_inputs": True},
    "wide": {"num_features": 96, "identity_init": False},
}
both_directions = pytest.mark.parametrize("causal", [False, True], ids=["bidirectional", "causal"])
# Around rows, columns, chunks and blocks of any kind of processor.
TOKENS = [1, 5, 6, 7, 16, 31, 47, 48, 49, 95, 96, 97, 200]


def layer(causal: bool, width: int = 32, tie_maps: bool = False, **form: object) -> LinearAttention:
    """A layer as after some training."""
    dims, feature_map = AttentionDims(HEADS, width, causal), partial(HedgehogFeatureMap, **form)
    attn = LinearAttention(dims, feature_map, tie_maps, backend="chunked")
    with torch.no_grad():
        for parameter in attn.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    return attn


def states(batch: int, tokens: int, width: int = 32, value_width: int = 64) -> list[Tensor]:
    """As a host hands them over: views of (batch, tokens, heads, width)."""
    widths = (width, width, value_width)
    return [torch.randn(batch, tokens, HEADS, size).transpose(1, 2) for size in widths]


def run(attn: LinearAttention, inputs: list[Tensor], mask: Tensor | None) -> list[Tensor]:
    """Outputs, then the gradients of q, k, v and of every trained parameter."""
    inputs = [x.detach().requires_grad_() for x in inputs]
    outputs = attn(*inputs, mask)
    direction = torch.linspace(-1, 1, outputs.numel(), dtype=torch.float64).view_as(outputs).to(outputs.dtype)
    return [outputs, *torch.autograd.grad(outputs, [*inputs, *attn.parameters()], direction)]


def check(attn: LinearAttention, inputs: list[Tensor], mask: Tensor | None) -> None:
    """Against the scores of all pairs in float64."""
    assert hedgehog.serves(attn.maps, Tokens(*inputs))
    actual = run(attn, inputs, mask)
    attn = attn.double()
    attn.backend = "reference"
    for ours, exact in zip(actual, run(attn, [x.double() for x in inputs], mask), strict=True):
        assert ours.dtype == torch.float32
        scale = max(1.0, float(exact.detach().abs().max()))
        torch.testing.assert_close(ours.double(), exact, rtol=0, atol=5e-6 * scale)


@both_directions
@pytest.mark.parametrize("tokens", TOKENS)
def test_outputs_and_gradients_are_those_of_float64(causal: bool, tokens: int) -> None:
    check(layer(causal), states(2, tokens), None)


@both_directions
@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("widths", [(32, 32), (64, 64), (128, 96)], ids=str)
def test_maps_of_every_form_and_width(causal: bool, form: str, widths: tuple[int, int]) -> None:
    check(layer(causal, widths[0], **FORMS[form]), states(2, 110, *widths), None)


@both_directions
def test_padding_on_either_side_and_in_between_is_honoured(causal: bool) -> None:
    mask = torch.rand(4, 150) > 0.3
    mask[0] = torch.arange(150) < 70
    mask[1] = torch.arange(150) >= 70
    mask[2] = False
    inputs = states(4, 150)
    assert (layer(causal)(*inputs, mask)[2] == 0).all()
    check(layer(causal), inputs, mask)


@both_directions
def test_tied_maps_add_up_what_queries_and_keys_ask_for(causal: bool) -> None:
    check(layer(causal, tie_maps=True), states(2, 100), None)


@pytest.mark.parametrize(("queries", "keys"), [(3, 130), (130, 3), (65, 64)])
def test_bidirectional_queries_and_keys_differ_in_number(queries: int, keys: int) -> None:
    q, _, _ = states(2, queries)
    _, k, v = states(2, keys)
    check(layer(causal=False), [q, k, v], None)


@both_directions
def test_gradients_that_are_one_number_in_all_places_are_read_right(causal: bool) -> None:
    attn, inputs = layer(causal), states(2, 70)
    leaf = inputs[2].detach().requires_grad_()
    (expanded,) = torch.autograd.grad(attn(*inputs[:2], leaf).sum(), leaf)
    out = attn(*inputs[:2], leaf)
    (whole,) = torch.autograd.grad(out, leaf, torch.ones_like(out).contiguous())
    assert torch.equal(expanded, whole)


@both_directions
def test_a_long_sequence_keeps_its_precision(causal: bool) -> None:
    attn = layer(causal, width=64)
    q, k, v = (x[:1] for x in states(1, 65_537, 64))
    out = attn(q, k, v)[:, :, -3:]
    exact = attn.double().weights(q[:, :, -3:].double(), k.double()) @ v.double()
    torch.testing.assert_close(out.double(), exact, rtol=0, atol=1e-6)


@both_directions
@pytest.mark.parametrize("size", [40.0, 170.0])
def test_exponents_out_of_range_are_left_to_the_exact_path(causal: bool, size: float) -> None:
    attn = layer(causal)
    inputs = states(2, 100)
    inputs[1][1, 2, 60] = size
    kernels = Kernels(attn.maps, Tokens(*inputs))
    with pytest.raises(OutOfRangeError):
        kernels.causal(*kernels.empty_state()) if causal else kernels.sum_keys()
    exact = attn.double().weights(*(x.double() for x in inputs[:2])) @ inputs[2].double()
    torch.testing.assert_close(attn.float()(*inputs).double(), exact, rtol=0, atol=2e-4)


@both_directions
@pytest.mark.parametrize("of", [0, 1])
def test_what_is_not_a_number_is_not_hidden(causal: bool, of: int) -> None:
    inputs = states(2, 60)
    inputs[of][1, 2, 50, 3] = math.nan
    out = layer(causal)(*inputs)
    assert out[1, 2, 50].isnan().all()
    assert out[0].isfinite().all()


@pytest.mark.parametrize("padded", [False, True], ids=["full", "padded"])
def test_prompts_in_pieces_and_absorbed_prompts_are_one_pass(padded: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(forms, "serves", lambda *args: pytest.fail("not what is tested"))
    attn, (q, k, v) = layer(causal=True), states(2, 230)
    mask = torch.rand(2, 230) > 0.3 if padded else None
    expected, state, found = attn.weights(q, k, mask) @ v, None, []
    for first, last in ((0, 100), (100, 101), (101, 150), (150, 230)):
        at = slice(first, last)
        before = None if state is None else state.kv.clone()
        out, after = attn.resume(q[:, :, at], k[:, :, at], v[:, :, at], state, None if mask is None else mask[:, at])
        # An old state is still good.
        assert before is None or torch.equal(before, state.kv)
        found, state = [*found, out], after
    torch.testing.assert_close(torch.cat(found, dim=2), expected, rtol=0, atol=1e-5)
    absorbed = attn.absorb(k, v, mask)
    assert absorbed.tokens == state.tokens == 230
    torch.testing.assert_close(absorbed.kv, state.kv, rtol=1e-5, atol=1e-4)
    torch.testing.assert_close(absorbed.k, state.k, rtol=1e-5, atol=1e-4)


def test_widths_that_fill_no_vectors_and_other_precisions_run_in_torch() -> None:
    maps, (q, k, v) = layer(causal=True).maps, states(1, 4)
    assert hedgehog.serves(maps, Tokens(q, k, v))
    assert not hedgehog.serves(maps, Tokens(q.double(), k.double(), v.double()))
    assert not hedgehog.serves(maps, Tokens(q.bfloat16(), k.bfloat16(), v.bfloat16()))
    assert not hedgehog.serves(maps, Tokens(q, k, v[..., :7]))
    assert not hedgehog.serves(maps, Tokens(q[:, :, :0], k, v))
