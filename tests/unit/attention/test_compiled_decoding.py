"""The decoding step in C: equal to float64, and out of the way where it cannot run."""

import math
import shutil
from functools import partial

import pytest
import torch
from torch import Tensor

from mimicry.attention import AttentionDims, LinearAttention, LinearState
from mimicry.attention.cpu import decoding
from mimicry.attention.feature_maps.hedgehog import HedgehogFeatureMap
from mimicry.attention.inputs import Tokens

needs_compiler = pytest.mark.skipif(shutil.which("cc") is None, reason="there is no C compiler here")

# Widths that fill no vector register, maps of every form.
SIZES = {"square": (4, 64, 64), "odd": (3, 5, 7), "wide values": (2, 16, 33)}
FORMS = {
    "plain": {},
    "no bias": {"bias": False},
    "one map": {"per_head": False},
    "scaled": {"scale_inputs": True},
    "wide": {"num_features": 24, "identity_init": False},
}


def layer(heads: int, width: int, **form: object) -> LinearAttention:
    attn = LinearAttention(AttentionDims(heads, width, causal=True), partial(HedgehogFeatureMap, **form))
    with torch.no_grad():
        for parameter in attn.parameters():
            parameter.add_(0.2 * torch.randn_like(parameter))
    return attn


def inputs(heads: int, width: int, value_width: int, tokens: int, batch: int = 3) -> tuple[Tensor, Tensor, Tensor]:
    # As a host hands them over: views of (batch, tokens, heads, width).
    q, k = torch.randn(2, batch, tokens, heads, width).transpose(2, 3)
    return q, k, torch.randn(batch, tokens, heads, value_width).transpose(1, 2)


def decoded(
    attn: LinearAttention, rows: tuple[Tensor, ...], mask: Tensor, overwrite: bool
) -> tuple[Tensor, LinearState]:
    state, outputs = attn.absorb(*(x[:, :, :4] for x in rows[1:]), mask[:, :4]), []
    for token in range(4, rows[0].shape[2]):
        at = slice(token, token + 1)
        out, state = attn.resume(*(x[:, :, at] for x in rows), state, mask[:, at], overwrite)
        outputs.append(out)
    return torch.cat(outputs, dim=2), state


@needs_compiler
@pytest.mark.parametrize("overwrite", [False, True], ids=["kept", "overwritten"])
@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("size", SIZES)
def test_tokens_equal_float64(size: str, form: str, overwrite: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    heads, width, value_width = SIZES[size]
    attn, rows = layer(heads, width, **FORMS[form]), inputs(heads, width, value_width, 12)
    mask = torch.rand(3, 12) > 0.3
    ran = count_steps(monkeypatch)
    out, state = decoded(attn, rows, mask, overwrite)
    assert ran == [True] * 8
    exact, sums = decoded(attn.double(), tuple(x.double() for x in rows), mask, overwrite=False)
    assert len(ran) == 8
    torch.testing.assert_close(out.double(), exact, rtol=0, atol=2e-6)
    for mine, expected in ((state.kv, sums.kv), (state.k, sums.k)):
        assert float((mine - expected).abs().max() / expected.abs().max()) < 1e-6


def count_steps(monkeypatch: pytest.MonkeyPatch) -> list[bool]:
    """Of every call of the kernel from here on, whether it did the step."""
    ran: list[bool] = []
    original = decoding.step

    def step(*args: object) -> object:
        done = original(*args)
        ran.append(done is not None)
        return done

    monkeypatch.setattr(decoding, "step", step)
    return ran


@needs_compiler
@pytest.mark.parametrize("threads", [1, 2])
def test_threads_share_a_large_state_and_leave_its_values_alone(threads: int) -> None:
    before = torch.get_num_threads()
    attn, rows = layer(8, 64), inputs(8, 64, 64, 6)
    mask = torch.ones(3, 6, dtype=torch.bool)
    assert attn.absorb(*rows[1:]).kv.numel() > 2 * decoding.PER_THREAD
    exact, _ = decoded(layer_like(attn).double(), tuple(x.double() for x in rows), mask, overwrite=False)
    try:
        torch.set_num_threads(threads)
        out, _ = decoded(attn, rows, mask, overwrite=True)
    finally:
        torch.set_num_threads(before)
    torch.testing.assert_close(out.double(), exact, rtol=0, atol=2e-6)


def layer_like(attn: LinearAttention) -> LinearAttention:
    other = layer(attn.dims.num_heads, attn.dims.head_dim)
    other.load_state_dict(attn.state_dict())
    return other


@needs_compiler
def test_exponentials_are_right_to_the_last_digits_over_the_whole_range() -> None:
    attn = LinearAttention(AttentionDims(1, 1, causal=True), HedgehogFeatureMap)
    x = torch.linspace(-30, 30, 4001)[:, None, None, None]
    zero = LinearState(torch.zeros(4001, 1, 2, 1), torch.zeros(4001, 1, 2), None, 0)
    _, state = attn.resume(x, x, torch.ones_like(x), zero)
    exact = torch.cat([x, -x], dim=-1)[:, :, 0].double().exp()
    assert float((state.k / exact - 1).abs().max()) < 3e-7


@needs_compiler
@pytest.mark.parametrize("large", [40.0, math.nan], ids=str)
@pytest.mark.parametrize("of", ["q", "k"])
def test_exponents_out_of_range_leave_the_sums_alone_and_are_left_to_the_exact_path(
    of: str, large: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    attn, rows = layer(2, 8), dict(zip("qkv", inputs(2, 8, 8, 6), strict=True))
    rows[of][1, 0, 5, 3] = large
    state = attn.absorb(rows["k"][:, :, :5], rows["v"][:, :, :5])
    kept = state.kv.clone(), state.k.clone()
    last = [x[:, :, 5:] for x in rows.values()]
    assert decoding.step(attn.maps, Tokens(*last), state, overwrite=True) is None
    assert torch.equal(state.kv, kept[0])
    assert torch.equal(state.k, kept[1])
    ran = count_steps(monkeypatch)
    out, _ = attn.resume(*last, state)
    assert ran == [False]
    exact = (attn.weights(rows["q"], rows["k"]) @ rows["v"])[:, :, 5:]
    torch.testing.assert_close(out, exact, rtol=0, atol=1e-5, equal_nan=True)


@needs_compiler
def test_what_stands_at_a_masked_token_enters_no_sum() -> None:
    attn, (q, k, v) = layer(2, 8), inputs(2, 8, 8, 1)
    v[0] = math.nan
    mask = torch.tensor([[False], [True], [True]])
    out, state = attn.resume(q, k, v, key_mask=mask)
    assert state.kv.isfinite().all()
    assert torch.equal(out[0], torch.zeros_like(out[0]))
