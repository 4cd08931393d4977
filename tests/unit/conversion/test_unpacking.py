"""A tiny file in the real format, of quantised weights and a tokenizer, in place of the download."""

import json
from pathlib import Path

import gguf
import numpy as np
import pytest
import torch
from language import toy_tokenizer
from transformers import AutoModelForCausalLM, AutoTokenizer, PreTrainedTokenizerFast

from mimicry import assets
from mimicry.conversion import unpacking
from mimicry.conversion.language_checkpoint import LanguageCheckpoint

WIDTH, HEADS, INNER = 64, 4, 96


def write_gguf(path: Path) -> dict[str, np.ndarray]:
    """A random Llama of one layer with 8-bit weights; returns what they stand for."""
    tokenizer = toy_tokenizer()
    tokens = sorted(tokenizer.get_vocab(), key=tokenizer.get_vocab().__getitem__)
    writer = gguf.GGUFWriter(path, "llama")
    writer.add_block_count(1)
    writer.add_context_length(128)
    writer.add_embedding_length(WIDTH)
    writer.add_feed_forward_length(INNER)
    writer.add_head_count(HEADS)
    writer.add_head_count_kv(HEADS // 2)
    writer.add_layer_norm_rms_eps(1e-5)
    writer.add_rope_dimension_count(WIDTH // HEADS)
    writer.add_rope_freq_base(10000.0)
    writer.add_vocab_size(len(tokens))
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre("smollm")
    writer.add_token_list(tokens)
    writer.add_token_types([3] + [1] * (len(tokens) - 1))
    writer.add_token_merges(merges(tokenizer))
    writer.add_bos_token_id(0)
    writer.add_eos_token_id(0)
    writer.add_unk_token_id(0)
    writer.add_pad_token_id(0)
    draw = np.random.default_rng(0)
    shapes = {
        "token_embd": (len(tokens), WIDTH),
        "blk.0.attn_q": (WIDTH, WIDTH),
        "blk.0.attn_k": (WIDTH // 2, WIDTH),
        "blk.0.attn_v": (WIDTH // 2, WIDTH),
        "blk.0.attn_output": (WIDTH, WIDTH),
        "blk.0.ffn_gate": (INNER, WIDTH),
        "blk.0.ffn_up": (INNER, WIDTH),
        "blk.0.ffn_down": (WIDTH, INNER),
    }
    meant = {}
    for name, shape in shapes.items():
        packed = gguf.quants.quantize(draw.normal(size=shape).astype(np.float32), gguf.GGMLQuantizationType.Q8_0)
        writer.add_tensor(f"{name}.weight", packed, raw_dtype=gguf.GGMLQuantizationType.Q8_0)
        meant[name] = gguf.quants.dequantize(packed, gguf.GGMLQuantizationType.Q8_0)
    for name in ("output_norm", "blk.0.attn_norm", "blk.0.ffn_norm"):
        writer.add_tensor(f"{name}.weight", np.ones(WIDTH, np.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return meant


def merges(tokenizer: PreTrainedTokenizerFast) -> list[str]:
    pairs = json.loads(tokenizer.backend_tokenizer.to_str())["model"]["merges"]
    return [" ".join(pair) for pair in pairs]


@pytest.fixture
def meant(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, np.ndarray]:
    folder = tmp_path / "cache" / "tiny-0123"
    folder.mkdir(parents=True)
    monkeypatch.setattr(assets, "fetch", lambda asset: folder)
    return write_gguf(folder / "model.gguf")


def test_quantised_weights_become_plain_ones_that_reload(meant: dict[str, np.ndarray]) -> None:
    folder = unpacking.unpacked(assets.SMOLLM2)
    model = AutoModelForCausalLM.from_pretrained(folder)
    assert {parameter.dtype for parameter in model.parameters()} == {torch.float32}
    assert not hasattr(model.config, "quantization_config")
    layer = model.model.layers[0]
    for name, weight in {
        "token_embd": model.model.embed_tokens.weight,
        "blk.0.attn_v": layer.self_attn.v_proj.weight,
        "blk.0.ffn_down": layer.mlp.down_proj.weight,
    }.items():
        assert np.array_equal(weight.detach().numpy(), meant[name]), name


@pytest.mark.usefixtures("meant")
def test_it_is_unpacked_once_and_again_when_a_file_is_lost(monkeypatch: pytest.MonkeyPatch) -> None:
    folder = unpacking.unpacked(assets.SMOLLM2)
    assert sorted(path.name for path in folder.parent.iterdir()) == ["tiny-0123", "tiny-0123-float32"]
    calls = []
    real = unpacking._unpack
    monkeypatch.setattr(unpacking, "_unpack", lambda *paths: (calls.append(paths), real(*paths)))
    assert unpacking.unpacked(assets.SMOLLM2) == folder
    assert calls == []
    (folder / "model.safetensors").unlink()
    assert unpacking.unpacked(assets.SMOLLM2) == folder
    assert len(calls) == 1
    assert (folder / "model.safetensors").is_file()
    assert sorted(path.name for path in folder.parent.iterdir()) == ["tiny-0123", "tiny-0123-float32"]


@pytest.mark.usefixtures("meant")
def test_nothing_half_done_stays_when_unpacking_fails(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(source: Path, ready: Path) -> None:
        ready.mkdir()
        (ready / "config.json").write_text("{}")
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(unpacking, "_unpack", fail)
    with pytest.raises(assets.AssetError, match=r"^cannot store .*tiny-0123-float32: No space left on device$"):
        unpacking.unpacked(assets.SMOLLM2)
    assert [path.name for path in (tmp_path / "cache").iterdir()] == ["tiny-0123"]


@pytest.mark.usefixtures("meant")
def test_digits_are_tokens_of_their_own_after_any_space() -> None:
    tokenizer = AutoTokenizer.from_pretrained(unpacking.unpacked(assets.SMOLLM2))
    assert tokenizer.tokenize("\n\n12") == [*tokenizer.tokenize("\n\n"), "1", "2"]
    assert tokenizer.tokenize("the  3") == [*tokenizer.tokenize("the  "), "3"]
    assert tokenizer.decode(tokenizer("the cat  sat 12.5 \xe9")["input_ids"]) == "the cat  sat 12.5 \xe9"


@pytest.mark.usefixtures("meant")
def test_the_embedded_model_loads_through_its_checkpoint() -> None:
    checkpoint = LanguageCheckpoint("asset:smollm2", max_length=128)
    checkpoint.check()
    model, tokenizer = checkpoint.load()
    assert not model.training
    assert (model.config.model_type, tokenizer.pad_token_id, tokenizer.eos_token_id) == ("llama", 0, 0)
    with pytest.raises(ValueError, match=r"^model\.max_length must be <= the model's 128 positions, got 129$"):
        LanguageCheckpoint("asset:smollm2", max_length=129).load()
