"""The kernels in C are built once, with what the machine has; without a compiler torch runs instead."""

import logging
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from torch import Tensor

from mimicry.attention import AttentionDims, LinearAttention
from mimicry.attention.cpu import compiled, decoding, hedgehog
from mimicry.attention.feature_maps.hedgehog import HedgehogFeatureMap

needs_compiler = pytest.mark.skipif(shutil.which("cc") is None, reason="there is no C compiler here")


@pytest.fixture(autouse=True)
def _anew(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Nothing is compiled yet, nor afterwards."""
    monkeypatch.setenv("MIMICRY_CACHE", str(tmp_path))
    caches = (compiled.library, decoding._function, hedgehog._columns)
    for cached in caches:
        cached.cache_clear()
    yield
    for cached in caches:
        cached.cache_clear()


def outputs() -> tuple[Tensor, Tensor]:
    """Of all tokens at once, and of the last one alone; and what they should be."""
    attn = LinearAttention(AttentionDims(2, 64, causal=True), HedgehogFeatureMap, backend="chunked")
    q, k, v = torch.randn(3, 2, 2, 9, 64) * 0.3
    _, state = attn.resume(*(x[:, :, :8] for x in (q, k, v)))
    last, _ = attn.resume(*(x[:, :, 8:] for x in (q, k, v)), state)
    return torch.cat([attn(q, k, v), last], dim=2), torch.cat([attn.weights(q, k) @ v] * 2, dim=2)[:, :, [*range(9), 8]]


@pytest.mark.parametrize(("compiler", "reason"), [("no-such-compiler", "CC names one"), ("false", "not compiled")])
def test_without_a_compiler_torch_runs_and_that_is_said_once(
    compiler: str, reason: str, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setenv("CC", compiler)
    with caplog.at_level(logging.INFO, logger=compiled.__name__):
        actual, expected = outputs()
    assert compiled.library() is None
    assert [reason in message for message in caplog.messages if message.startswith("attention on CPUs")] == [True]
    torch.testing.assert_close(actual, expected, rtol=0, atol=1e-5)


@needs_compiler
def test_the_library_is_built_once_and_then_taken_from_the_cache(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert compiled.library() is not None
    (found,) = (tmp_path / "compiled").iterdir()
    assert found.suffix == ".so"
    compiled.library.cache_clear()
    monkeypatch.setattr(subprocess, "run", lambda *args, **options: pytest.fail("compiled again"))
    assert compiled.library() is not None


def test_other_sources_are_another_library(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(compiled, "_call", lambda *command: Path(command[command.index("-o") + 1]).touch())
    copy = tmp_path / "copy"
    shutil.copytree(compiled.FOLDER, copy)
    first = compiled.built("cc")
    monkeypatch.setattr(compiled, "FOLDER", copy)
    assert compiled.built("cc") == first
    assert compiled.built("another") != first
    with (copy / "maps.h").open("a") as header:
        header.write("/* changed */\n")
    assert compiled.built("cc") != first


@needs_compiler
def test_a_compiler_without_openmp_builds_for_one_thread(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(compiled, "THREADS", ("-fno-such-flag",))
    assert compiled.library() is not None
    actual, expected = outputs()
    torch.testing.assert_close(actual, expected, rtol=0, atol=1e-5)


@needs_compiler
def test_warnings_of_the_compiler_are_none(tmp_path: Path) -> None:
    sources = [str(file) for file in sorted(compiled.FOLDER.glob("*.c"))]
    # Each file uses some of the headers' functions.
    strict = ("-Wall", "-Wextra", "-Wno-unused-function", "-Werror", "-fopenmp", "-shared", "-fPIC", "-O1")
    subprocess.run(["cc", *strict, "-o", str(tmp_path / "strict.so"), *sources], check=True)
