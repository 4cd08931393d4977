import json
import re
from pathlib import Path

import pytest
import torch
from families import tiny_model
from language import END, save_toy_decoder, toy_tokenizer
from tokenizers import AddedToken
from toy import save_toy_checkpoint

from mimicry.conversion.language_checkpoint import LanguageCheckpoint


def checkpoint(folder: Path, **options: object) -> LanguageCheckpoint:
    return LanguageCheckpoint(str(folder), **({"max_length": 64} | options))


@pytest.mark.parametrize("family", ["llama", "gpt2", "opt"])
def test_a_folder_loads_as_a_decoder_in_evaluation_mode_with_its_tokenizer(tmp_path: Path, family: str) -> None:
    source = checkpoint(save_toy_decoder(tmp_path, family))
    source.check()
    model, tokenizer = source.load()
    assert not model.training
    assert model.get_output_embeddings().out_features == 300
    # Where `generate` is to keep its states is up to it.
    assert model.config.use_cache
    assert tokenizer.decode(tokenizer("the cat sat")["input_ids"]) == "the cat sat"


def test_a_tokenizer_without_a_pad_token_pads_with_its_end_of_text_and_generation_knows(tmp_path: Path) -> None:
    model, tokenizer = checkpoint(save_toy_decoder(tmp_path)).load()
    assert toy_tokenizer().pad_token is None
    assert (tokenizer.pad_token, tokenizer.pad_token_id) == (END, 0)
    assert model.generation_config.pad_token_id == 0


def test_a_pad_token_of_its_own_is_kept(tmp_path: Path) -> None:
    folder = save_toy_decoder(tmp_path)
    toy_tokenizer(pad_token="!").save_pretrained(folder)
    _, tokenizer = checkpoint(folder).load()
    assert tokenizer.pad_token == "!"


@pytest.mark.parametrize(
    ("dtype", "expected"),
    [("float32", torch.float32), ("bfloat16", torch.bfloat16), ("auto", torch.bfloat16)],
)
def test_weights_are_read_in_the_type_asked_for(tmp_path: Path, dtype: str, expected: torch.dtype) -> None:
    folder = save_toy_decoder(tmp_path)
    tiny_model("llama", vocab_size=300).bfloat16().save_pretrained(folder)
    model, _ = checkpoint(folder, dtype=dtype).load()
    assert {parameter.dtype for parameter in model.parameters()} == {expected}


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"max_length": 7}, "model.max_length must be >= 8, got 7"),
        ({"dtype": "float16"}, "model.dtype must be one of float32, bfloat16, auto, got 'float16'"),
    ],
)
def test_an_option_out_of_range_is_refused(options: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=f"^{re.escape(message)}$"):
        LanguageCheckpoint("asset:smollm2", **options)


def test_an_unknown_asset_is_refused() -> None:
    with pytest.raises(ValueError, match=r"^model\.path must be one of asset:smollm2 when embedded, got 'asset:gpt'$"):
        LanguageCheckpoint("asset:gpt").check()


@pytest.mark.parametrize("path", ["/no/such/folder", "./missing", "~/missing-model", "a/b/c"])
def test_a_missing_folder_is_refused_before_anything_is_loaded(path: str) -> None:
    with pytest.raises(ValueError, match=r"^model\.path: no such folder"):
        LanguageCheckpoint(path).check()


@pytest.mark.parametrize(
    ("config", "message"),
    [
        (None, "no config.json"),
        ("{not json", "is not JSON"),
        ("[1]", "config.json must hold a JSON object, got list"),
        ("{}", "no attention seam for architecture None"),
        ('{"model_type": "gpt9"}', "no attention seam for architecture 'gpt9'"),
        ('{"model_type": "bloom"}', "'bloom' cannot be converted: ALiBi"),
        ('{"model_type": "bert"}', "'bert' is no decoder: it does not predict the next token"),
        ('{"model_type": "vit"}', "'vit' is no decoder: it does not predict the next token"),
        # The config leaves it out, and the family's own default is a window.
        ('{"model_type": "mistral"}', "sliding"),
        ('{"model_type": "llama", "hidden_size": "wide"}', "model.path: cannot read the config of"),
        (
            '{"model_type": "llama", "max_position_embeddings": 32}',
            "model.max_length must be <= the model's 32 positions",
        ),
        ('{"model_type": "gpt2", "n_positions": 32}', "model.max_length must be <= the model's 32 positions, got 64"),
    ],
)
def test_a_folder_that_cannot_work_is_refused_at_once(tmp_path: Path, config: str | None, message: str) -> None:
    if config is not None:
        (tmp_path / "config.json").write_text(config)
    with pytest.raises(ValueError, match=message) as refused:
        checkpoint(tmp_path).check()
    assert "\n" not in str(refused.value)


def test_what_check_refuses_load_refuses_too(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"^model\.max_length must be <= the model's 64 positions, got 65$"):
        checkpoint(save_toy_decoder(tmp_path), max_length=65).load()
    with pytest.raises(ValueError, match=r"^model: 'bert' is no decoder"):
        checkpoint(save_toy_checkpoint(tmp_path)).load()


def test_an_unreachable_hub_is_one_line_with_a_way_out() -> None:
    source = LanguageCheckpoint("nobody/nothing")
    source.check()
    with pytest.raises(
        ValueError, match=r"^model\.path: cannot load 'nobody/nothing'.*a local folder works"
    ) as refused:
        source.load()
    assert "\n" not in str(refused.value)


def test_weights_with_holes_are_refused(tmp_path: Path) -> None:
    folder = save_toy_decoder(tmp_path)
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | {"num_hidden_layers": 3}))
    with pytest.raises(ValueError, match=r"lacks weights: model\.layers\.2"):
        checkpoint(folder).load()


def test_half_written_weights_are_refused_in_one_line(tmp_path: Path) -> None:
    folder = save_toy_decoder(tmp_path)
    weights = (folder / "model.safetensors").read_bytes()
    for content in (weights[: len(weights) // 2], b""):
        (folder / "model.safetensors").write_bytes(content)
        with pytest.raises(ValueError, match=r"^model\.path: cannot load .*deserializing header") as refused:
            checkpoint(folder).load()
        assert "\n" not in str(refused.value)
    (folder / "model.safetensors").unlink()
    with pytest.raises(ValueError, match=r"^model\.path: cannot load .*no file named model\.safetensors"):
        checkpoint(folder).load()


def refused_tokenizer(folder: Path, message: str) -> None:
    with pytest.raises(ValueError, match=message) as refused:
        checkpoint(folder).load()
    assert str(refused.value).startswith(f"model.path: the tokenizer of '{folder}' ")
    assert "\n" not in str(refused.value)


def test_a_tokenizer_with_more_tokens_than_the_model_has_rows_is_refused(tmp_path: Path) -> None:
    refused_tokenizer(save_toy_decoder(tmp_path, vocab_size=299), r"'\S+' has the id 299, the model has 299 rows$")


def test_a_special_token_behind_the_model_s_rows_is_refused(tmp_path: Path) -> None:
    folder = save_toy_decoder(tmp_path)
    tokenizer = toy_tokenizer()
    tokenizer.add_special_tokens({"pad_token": AddedToken("<pad>")})
    tokenizer.save_pretrained(folder)
    refused_tokenizer(folder, r"does not fit: its special token '<pad>' has the id 300, the model has 300 rows$")


def test_a_tokenizer_without_an_end_of_text_is_refused(tmp_path: Path) -> None:
    folder = save_toy_decoder(tmp_path)
    toy_tokenizer(eos_token=None).save_pretrained(folder)
    refused_tokenizer(folder, r"must have an end-of-text token, got none$")


def test_a_folder_without_a_tokenizer_is_refused_in_one_line(tmp_path: Path) -> None:
    for family, message in (("gpt2", "has no vocabulary"), ("llama", "cannot load the tokenizer")):
        folder = save_toy_decoder(tmp_path / family, family)
        for path in folder.glob("tokenizer*"):
            path.unlink()
        with pytest.raises(ValueError, match=message) as refused:
            checkpoint(folder).load()
        assert "\n" not in str(refused.value)


@pytest.mark.parametrize(
    ("path", "name"), [("asset:smollm2", "smollm2"), ("openai-community/gpt2", "gpt2"), ("~/models/mine", "mine")]
)
def test_a_model_is_named_after_where_it_is_from(path: str, name: str) -> None:
    assert LanguageCheckpoint(path).name == name
