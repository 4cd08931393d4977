"""Compiled models compute what they did before: in a process of its own, without the wrappers that check shapes."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

SCRIPT = """
import functools, itertools, json
import torch
from torch._dynamo.testing import CompileCounter
from mimicry.attention.capture import attention_layers, capture
from mimicry.attention.shipped import load_variant
from mimicry.models import DecoderSizes, EncoderSizes, native
from mimicry.models.compiling import compile_model

decoder, encoder = DecoderSizes(2, 16, 2, 32, init_std=0.3), EncoderSizes(2, 16, 2, 32, init_std=0.3)
tokens, classes = torch.randint(11, (2, 20)), torch.tensor([0, 2])
mask = torch.arange(20) < torch.tensor([[20], [13]])
pair = {"attention_mask": mask, "pair_input_ids": tokens.flip(1), "pair_attention_mask": mask.flip(0)}
kinds = {
    "decoder": (native.NativeDecoder, decoder, (11, 24, 0, 1), {"labels": tokens}),
    "language": (lambda *a, **k: native.NativeLanguageModel(*a, "", 11, 24, **k), decoder, (), {"labels": tokens}),
    "encoder": (native.NativeEncoder, encoder, (11, 24, 3, 1), {"attention_mask": mask, "labels": classes}),
    "towers": (native.NativeEncoder, encoder, (11, 24, 3, 2), {**pair, "labels": classes}),
}

found = {}
for (kind, (make, sizes, task, inputs)), attn in itertools.product(kinds.items(), ("softmax", "hedgehog")):
    torch._dynamo.reset()
    counter = CompileCounter()
    native.compile_model = functools.partial(compile_model, backend=counter)
    results = []
    for compiled in (False, True):
        torch.manual_seed(0)
        # Without the argument a model is as it was.
        model = make("tiny", sizes, **({"compile": True} if compiled else {})).build(*task, load_variant(attn))
        loss, logits = model(tokens, **inputs)
        loss.backward()
        gradients = [p.grad if p.grad is not None else torch.zeros(()) for p in model.parameters()]
        results.append((logits, *gradients, counter.frame_count))
    with capture(model) as captured:
        model(tokens, **inputs)
    assert sorted(captured) == sorted(attention_layers(model)), kind
    (*plain, before), (*compiled, graphs) = results
    assert before == 0, kind
    off = max(float((a - b).detach().abs().max()) for a, b in zip(plain, compiled, strict=True))
    found[f"{kind} {attn}"] = (graphs, off)
print(json.dumps(found))
"""


@pytest.fixture(scope="module")
def compiled() -> dict[str, tuple[int, float]]:
    """Graphs, and the largest difference of logits and gradients, by kind of model and attention."""
    source = str(Path(__file__).parents[3] / "src")
    result = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", SCRIPT],
        env=os.environ | {"PYTHONPATH": source, "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert result.returncode == 0, result.stderr[-2000:]
    return json.loads(result.stdout)


@pytest.mark.parametrize("kind", ["decoder", "language", "encoder", "towers"])
def test_a_softmax_model_is_one_graph(kind: str, compiled: dict[str, tuple[int, float]]) -> None:
    graphs, off = compiled[f"{kind} softmax"]
    assert graphs == 1
    assert off < 1e-5


@pytest.mark.parametrize(("kind", "frames"), [("decoder", 0), ("language", 0), ("encoder", 2), ("towers", 2)])
def test_around_linear_attentions_models_are_compiled_too(
    kind: str, frames: int, compiled: dict[str, tuple[int, float]]
) -> None:
    graphs, off = compiled[f"{kind} hedgehog"]
    # Two halves of a block, of which all blocks share the code, what comes before and after them, and in encoders
    # pooling and the head, which stand in functions of their own.
    assert graphs == 4 + frames
    assert off < 1e-5
