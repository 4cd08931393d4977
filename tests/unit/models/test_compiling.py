"""Compiled models compute what they did before: in a process of its own, without the wrappers that check shapes."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

SCRIPT = """
import json, sys
import torch
from torch._dynamo.testing import CompileCounter
from mimicry.attention.capture import attention_layers, capture
from mimicry.attention.shipped import load_variant
from mimicry.models import Decoder, DecoderSizes
from mimicry.models.compiling import compile_model

torch.manual_seed(0)
found = {}
tokens = torch.randint(11, (2, 20))
for attn in sys.argv[1:]:
    model = Decoder(DecoderSizes(2, 16, 2, 32, init_std=0.3), 11, 24, load_variant(attn))
    expected = model(tokens, labels=tokens)
    expected.loss.backward()
    gradients = {name: p.grad.clone() for name, p in model.named_parameters()}
    model.zero_grad()
    counter = CompileCounter()
    compile_model(model, counter)
    loss, logits = model(tokens, labels=tokens)
    loss.backward()
    with capture(model) as captured:
        model(tokens)
    seen = sorted(captured) == sorted(attention_layers(model))
    off = max(float((p.grad - gradients[name]).abs().max()) for name, p in model.named_parameters())
    found[attn] = (counter.frame_count if seen else None, float((logits - expected.logits).abs().max()), off)
print(json.dumps(found))
"""


@pytest.fixture(scope="module")
def compiled() -> dict[str, tuple[int, float, float]]:
    """Graphs, and largest differences of logits and gradients, by attention."""
    source = str(Path(__file__).parents[3] / "src")
    result = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", SCRIPT, "softmax", "hedgehog"],
        env=os.environ | {"PYTHONPATH": source, "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert result.returncode == 0, result.stderr[-2000:]
    return json.loads(result.stdout)


def test_a_softmax_model_is_one_graph(compiled: dict[str, tuple[int, float, float]]) -> None:
    graphs, logits, gradients = compiled["softmax"]
    assert graphs == 1
    assert max(logits, gradients) < 1e-5


def test_around_linear_attentions_models_are_compiled_too(compiled: dict[str, tuple[int, float, float]]) -> None:
    graphs, logits, gradients = compiled["hedgehog"]
    # Two halves of a block, of which all blocks share the code, and what comes before and after them.
    assert graphs == 4
    assert max(logits, gradients) < 1e-5
