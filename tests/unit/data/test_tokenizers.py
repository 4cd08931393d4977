import gzip
import json
import re
from pathlib import Path

import pytest
from language import END, TEXT, toy_tokenizer

from mimicry.data.tokenizers import byte_level, check_tokenizer_source, load_tokenizer

REAL = Path(__file__).resolve().parents[3].parent / "shared/data"


def write_pair(folder: Path, names: tuple[str, str]) -> None:
    """The toy tokenizer as the two files of GPT-2's byte-level BPE."""
    model = json.loads(toy_tokenizer().backend_tokenizer.to_str())["model"]
    merges = ["#version: 0.2", *(" ".join(pair) for pair in model["merges"])]
    for name, text in zip(names, (json.dumps(model["vocab"]), "\n".join(merges) + "\n"), strict=True):
        data = text.encode()
        (folder / name).write_bytes(gzip.compress(data) if name.endswith(".gz") else data)


@pytest.mark.parametrize(
    "names", [("vocab.json", "merges.txt"), ("encoder.json", "vocab.bpe"), ("encoder.json.gz", "vocab.bpe.gz")]
)
def test_two_files_of_byte_level_bpe_give_the_tokens_of_the_tokenizer_they_are_from(
    tmp_path: Path, names: tuple[str, str]
) -> None:
    write_pair(tmp_path, names)
    check_tokenizer_source(str(tmp_path), 300)
    tokenizer, expected = load_tokenizer(str(tmp_path), 300, ()), toy_tokenizer()
    for text in (TEXT, "  naïve — 3 dogs\n\n", END):
        ids = tokenizer(text)["input_ids"]
        assert ids == expected(text)["input_ids"]
        assert tokenizer.decode(ids) == text
    assert (tokenizer.eos_token, tokenizer.pad_token) == (END, END)


def test_a_saved_tokenizer_is_loaded_from_its_folder(tmp_path: Path) -> None:
    toy_tokenizer().save_pretrained(tmp_path)
    check_tokenizer_source(str(tmp_path), 300)
    assert load_tokenizer(str(tmp_path), 300, ())(TEXT)["input_ids"] == toy_tokenizer()(TEXT)["input_ids"]


def test_a_trained_tokenizer_is_a_function_of_its_texts_and_knows_every_byte() -> None:
    texts = [TEXT, "dogs and cats"] * 3
    tokenizer, again = (load_tokenizer("trained", 280, texts) for _ in range(2))
    assert tokenizer.get_vocab() == again.get_vocab()
    assert len(tokenizer) == 280
    for text in (TEXT, "Größe 💡\x00"):
        assert tokenizer.decode(tokenizer(text)["input_ids"]) == text
    # With no room for merges a token is a byte.
    assert len(load_tokenizer("trained", 257, texts)("Größe")["input_ids"]) == len("Größe".encode())


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("vocab.json", '{"a": 0,\n "b"}', r"vocab\.json:2: vocabulary must be a JSON object, got Expecting ':'"),
        ("vocab.json", '["a"]', r"vocab\.json must map each token to its id"),
        ("merges.txt", "#version: 0.2\na t\na t e\n", r"merges\.txt:3: merge must be two tokens, got 'a t e'"),
        ("merges.txt", "q z\n", r"merges\.txt:1: merge must be of tokens in vocab\.json, got 'qz'"),
    ],
)
def test_a_broken_file_is_named_with_its_line(tmp_path: Path, name: str, text: str, message: str) -> None:
    write_pair(tmp_path, ("vocab.json", "merges.txt"))
    (tmp_path / name).write_text(text)
    with pytest.raises(ValueError, match=message):
        byte_level(tmp_path / "vocab.json", tmp_path / "merges.txt")


@pytest.mark.parametrize(
    ("source", "vocab_size", "message"),
    [
        ("trained", 256, "model.vocab_size must be >= 257, all bytes and an end of text, got 256"),
        ("/no/such/folder", 300, "model.tokenizer: no such folder: /no/such/folder"),
    ],
)
def test_a_source_that_cannot_be_loaded_is_refused_at_once(source: str, vocab_size: int, message: str) -> None:
    with pytest.raises(ValueError, match=f"^{re.escape(message)}$"):
        check_tokenizer_source(source, vocab_size)


def test_a_folder_without_a_tokenizer_says_what_it_lacks(tmp_path: Path) -> None:
    (tmp_path / "vocab.json").write_text("{}")
    message = "must hold tokenizer.json, or vocab.json with merges.txt or encoder.json with vocab.bpe"
    with pytest.raises(ValueError, match=message):
        check_tokenizer_source(str(tmp_path), 300)


def test_a_hub_that_cannot_be_reached_is_one_line() -> None:
    with pytest.raises(ValueError, match=r"model\.tokenizer: cannot load 'nobody/none' \(.*\); a local folder works"):
        load_tokenizer("nobody/none", 300, ())


@pytest.mark.skipif(not REAL.is_dir(), reason="needs shared/data beside the repository")
def test_gpt2_s_own_files_give_its_ids() -> None:
    tokenizer = load_tokenizer(str(REAL / "gpt2-bpe"), 50257, ())
    assert len(tokenizer) == 50257
    # Known from the release's examples.
    assert tokenizer("Hello, my dog is cute")["input_ids"] == [15496, 11, 616, 3290, 318, 13779]
    assert tokenizer.eos_token_id == 50256
