"""The form that runs is the one asked for, or the cheapest, and it is said which."""

import logging
from functools import partial

import pytest
import torch

from mimicry.attention import AttentionDims, LinearAttention, backend
from mimicry.attention.feature_maps.elu import EluFeatureMap
from mimicry.attention.feature_maps.hedgehog import HedgehogFeatureMap
from mimicry.attention.feature_maps.taylor import TaylorFeatureMap

DIMS = AttentionDims(2, 16, causal=True)


def run(attn: LinearAttention, tokens: int = 40, **kinds: torch.dtype) -> torch.Tensor:
    q, k, v = torch.randn(3, 1, 2, tokens, 16, **kinds)
    return attn(q, k, v)


def test_an_unknown_backend_is_refused() -> None:
    with pytest.raises(ValueError, match="backend must be one of auto, reference, chunked, triton, fla, got 'flash'"):
        backend.check_backend("flash")


def test_a_backend_that_is_not_installed_is_refused_when_it_is_asked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(backend, "find_spec", lambda name: None)
    monkeypatch.setattr(backend.triton, "find_spec", lambda name: None)
    with pytest.raises(ValueError, match="got 'fla': pip install flash-linear-attention"):
        LinearAttention(DIMS, HedgehogFeatureMap, backend="fla")
    with pytest.raises(ValueError, match="got 'triton': pip install triton"):
        LinearAttention(DIMS, HedgehogFeatureMap, backend="triton")


def test_a_backend_that_cannot_run_the_layer_says_why(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(backend, "find_spec", lambda name: object())
    monkeypatch.setattr(backend.triton, "find_spec", lambda name: object())
    with pytest.raises(ValueError, match="got 'triton': its kernels are for HedgehogFeatureMap, not EluFeatureMap"):
        run(LinearAttention(DIMS, EluFeatureMap, backend="triton"))
    with pytest.raises(ValueError, match=r"got 'triton': widths and numbers of features must be among .* got 24"):
        run(LinearAttention(DIMS, partial(HedgehogFeatureMap, num_features=24), backend="triton"))
    with pytest.raises(ValueError, match=r"got 'triton': dtype must be one of .* got torch.float64"):
        run(LinearAttention(DIMS, HedgehogFeatureMap, backend="triton").double(), dtype=torch.float64)
    with pytest.raises(ValueError, match="got 'fla': it is for causal attention on a GPU"):
        run(LinearAttention(DIMS, HedgehogFeatureMap, backend="fla"))


def test_triton_runs_the_layer_it_is_asked_to() -> None:
    pytest.importorskip("triton", reason="Triton is not installed")
    attn = LinearAttention(DIMS, HedgehogFeatureMap, backend="triton")
    q, k, v = torch.randn(3, 1, 2, 40, 16)
    mask = torch.arange(40)[None] < 33
    for size in (1.0, 60.0):
        # The larger needs a shift, which these keys of one size have in common.
        inputs = (size * q, size * k.clamp(0.4, 0.5), v)
        outputs = attn(*inputs, mask)
        attn.backend = "reference"
        torch.testing.assert_close(outputs, attn(*inputs, mask), rtol=0, atol=2e-4)
        attn.backend = "triton"


def test_auto_takes_pairs_for_kernels_of_short_sequences_and_says_so_once(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(backend, "_announced", set())
    attn = LinearAttention(DIMS, TaylorFeatureMap)
    with caplog.at_level(logging.INFO, logger="mimicry"):
        run(attn, tokens=40)
        run(attn, tokens=40)
        run(attn, tokens=400)
    assert caplog.messages == [
        "TaylorFeatureMap, causal on cpu: backend reference",
        "TaylorFeatureMap, causal on cpu: backend chunked",
    ]
