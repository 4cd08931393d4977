"""The embedded language model itself: fetched and unpacked once, then read from the cache."""

import math

import gguf
import numpy as np
import pytest
import torch
from cli import REPO
from safetensors.numpy import load_file
from torch.nn.functional import cross_entropy

import mimicry
from mimicry import assets
from mimicry.conversion.language_checkpoint import LanguageCheckpoint
from mimicry.conversion.unpacking import unpacked
from mimicry.data.batches import model_inputs
from mimicry.data.topics import Topics
from mimicry.data.wikitext import WikiText

pytestmark = pytest.mark.slow

# What the file calls a layer's parts, and how many heads the rotated ones have.
NAMES = {
    "token_embd": "model.embed_tokens",
    "output_norm": "model.norm",
    "attn_q": "self_attn.q_proj",
    "attn_k": "self_attn.k_proj",
    "attn_v": "self_attn.v_proj",
    "attn_output": "self_attn.o_proj",
    "ffn_gate": "mlp.gate_proj",
    "ffn_up": "mlp.up_proj",
    "ffn_down": "mlp.down_proj",
    "attn_norm": "input_layernorm",
    "ffn_norm": "post_attention_layernorm",
}
HEADS = {"attn_q": 9, "attn_k": 3}
WIKITEXT = REPO.parent / "shared" / "data" / "wikitext-2-raw"


# Two minutes on an idle core.
@pytest.mark.timeout(1800)
@pytest.mark.skipif(not WIKITEXT.is_dir(), reason="needs shared/data/wikitext-2-raw beside the repository")
def test_it_predicts_wikitext_2_as_well_as_it_did_when_it_was_first_measured() -> None:
    torch.set_num_threads(1)
    checkpoint = LanguageCheckpoint("asset:smollm2", max_length=1024)
    model, tokenizer = checkpoint.load()
    task = WikiText("wikitext2", root=str(WIKITEXT), train_file="wiki.train.head1MB.raw.gz")
    encoder = task.encoder(tokenizer, 1024)
    rows = encoder.encode(task.load().validation["validation"])
    losses = []
    # Every 16th block, because all of them take half an hour on one core, and the first ones are easy: 19.1 over 24.
    for index in range(0, len(rows), 16):
        batch = encoder.collate([rows[index]])
        with torch.no_grad():
            logits = model(**model_inputs(batch)).logits[0, :-1]
        losses.append(cross_entropy(logits, batch["labels"][0, 1:], reduction="none"))
    assert math.exp(torch.cat(losses).double().mean()) == pytest.approx(25.985, rel=0.002)


def test_its_weights_are_those_of_the_file() -> None:
    weights = load_file(unpacked(assets.SMOLLM2) / "model.safetensors")
    tensors = gguf.GGUFReader(assets.fetch(assets.SMOLLM2) / "model.gguf").tensors
    assert len(tensors) == len(weights) == 272
    for tensor in tensors:
        expected = gguf.quants.dequantize(tensor.data, tensor.tensor_type)
        layer, _, part = tensor.name.removesuffix(".weight").removeprefix("blk.").rpartition(".")
        name = f"model.layers.{layer}.{NAMES[part]}" if layer else NAMES[part]
        if part in HEADS:
            # The file keeps the two halves of each head that rotate together side by side.
            halves = expected.reshape(HEADS[part], 32, 2, -1).swapaxes(1, 2)
            expected = halves.reshape(expected.shape)
        assert np.array_equal(weights[f"{name}.weight"], expected), name


def test_canonicalising_it_leaves_its_logits_on_the_default_text_unchanged() -> None:
    model, tokenizer = LanguageCheckpoint("asset:smollm2").load()
    encoder = Topics().encoder(tokenizer, 128)
    rows = encoder.encode(Topics().load().validation["validation"])
    inputs = model_inputs(encoder.collate([rows[0], rows[len(rows) - 1]]))
    assert "attention_mask" in inputs
    with torch.no_grad():
        difference = mimicry.canonicalise(model)(**inputs).logits - model(**inputs).logits
    # Logits reach 30; what stands at padded places is nobody's.
    assert difference[inputs["attention_mask"].bool()].abs().max() <= 1e-3
