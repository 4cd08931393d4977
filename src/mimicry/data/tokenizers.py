"""Tokenizers for models that start from random weights: the hub's, local files, or trained on the task's own text."""

import json
import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from mimicry.data.lines import read_lines

log = logging.getLogger(__name__)

TRAINED = "trained"
# As GPT-2 calls it.
END = "<|endoftext|>"
# Byte-level BPE as GPT-2's release names its files, and as the hub does.
PAIRS = (("vocab.json", "merges.txt"), ("encoder.json", "vocab.bpe"))
# Every byte is a token, and the end of a text is one more.
SMALLEST = 257


def check_tokenizer_source(source: str, vocab_size: int) -> None:
    """Refuses, without a download or a slow import, what `load_tokenizer` could not load.

    Args:
        source: `trained`, a local folder, or a hub id.
        vocab_size: rows of the model's embedding.

    Raises:
        ValueError: if the vocabulary is too small to be trained, or the folder does not exist or lacks a tokenizer.
    """
    if source == TRAINED:
        if vocab_size < SMALLEST:
            raise ValueError(f"model.vocab_size must be >= {SMALLEST}, all bytes and an end of text, got {vocab_size}")
        return
    folder = Path(source).expanduser()
    if not folder.is_dir():
        if source.startswith((".", "/", "~")) or source.count("/") > 1:
            raise ValueError(f"model.tokenizer: no such folder: {source}")
    elif not (folder / "tokenizer.json").is_file() and find_pair(folder) is None:
        pairs = " or ".join(" with ".join(pair) for pair in PAIRS)
        raise ValueError(
            f"model.tokenizer must hold tokenizer.json, or {pairs} (each may be .gz), got {source} without"
        )


def load_tokenizer(source: str, vocab_size: int, texts: Sequence[str]) -> Any:
    """A fast tokenizer with an end-of-text token, which also pads.

    Args:
        source: `trained` for byte-level BPE that is trained on `texts`; a folder with tokenizer.json, or with the two
            files of GPT-2's byte-level BPE, plain or gzipped; or a hub id.
        vocab_size: tokens of one that is trained, >= 257.
        texts: of the task, to train on; nothing that is scored.

    Raises:
        ValueError: if it cannot be loaded, naming file and line where a line is bad.
    """
    folder = Path(source).expanduser()
    if source == TRAINED:
        tokenizer = train(texts, vocab_size)
    elif folder.is_dir() and not (folder / "tokenizer.json").is_file():
        pair = find_pair(folder)
        assert pair is not None
        tokenizer = byte_level(*pair)
    else:
        tokenizer = _load_saved(source, str(folder) if folder.is_dir() else source)
    if tokenizer.pad_token_id is None:
        # Padded places are masked or come last, so which token stands there does not matter.
        tokenizer.pad_token = tokenizer.eos_token
    return tokenizer


def train(texts: Sequence[str], vocab_size: int) -> Any:
    """Byte-level BPE with at most so many tokens; the same texts give the same tokens."""
    from tokenizers import trainers
    from tokenizers.pre_tokenizers import ByteLevel

    backend = _backend({}, [])
    alphabet = sorted(ByteLevel.alphabet())
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size, special_tokens=[END], initial_alphabet=alphabet, show_progress=False
    )
    backend.train_from_iterator(texts, trainer)
    log.info("Trained a tokenizer of %d tokens on the training texts", backend.get_vocab_size())
    return _wrapped(backend)


def byte_level(vocabulary: Path, merges: Path) -> Any:
    """GPT-2's tokenizer from its two files.

    Raises:
        ValueError: naming the file, and the line of a merge, if one is not as it should be.
    """
    text = "".join(line for _, line in read_lines(vocabulary))
    try:
        ids = json.loads(text)
    except json.JSONDecodeError as error:
        raise ValueError(f"{vocabulary}:{error.lineno}: vocabulary must be a JSON object, got {error.msg}") from error
    if not isinstance(ids, dict) or not all(type(value) is int for value in ids.values()):
        raise ValueError(f"{vocabulary} must map each token to its id, got something else")
    pairs = []
    for place, line in read_lines(merges):
        if line.startswith("#version") or not line.strip():
            continue
        parts = line.split()
        if len(parts) != 2:
            raise ValueError(f"{place}: merge must be two tokens, got {line.rstrip()!r}")
        if unknown := [token for token in (*parts, "".join(parts)) if token not in ids]:
            raise ValueError(f"{place}: merge must be of tokens in {vocabulary.name}, got {unknown[0]!r}")
        pairs.append((parts[0], parts[1]))
    return _wrapped(_backend(ids, pairs))


def find_pair(folder: Path) -> tuple[Path, Path] | None:
    """The two files of byte-level BPE in a folder, if it holds both."""
    for names in PAIRS:
        found = [
            next((path for path in (folder / name, folder / f"{name}.gz") if path.is_file()), None) for name in names
        ]
        vocabulary, merges = found
        if vocabulary is not None and merges is not None:
            return vocabulary, merges
    return None


def _backend(ids: dict[str, int], merges: list[tuple[str, str]]) -> Any:
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers

    backend = Tokenizer(models.BPE(ids, merges))
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.decoder = decoders.ByteLevel()
    return backend


def _wrapped(backend: Any) -> Any:
    # Slow to import, and only needed here.
    from transformers import PreTrainedTokenizerFast

    return PreTrainedTokenizerFast(tokenizer_object=backend, eos_token=END)


def _load_saved(source: str, where: str) -> Any:
    from transformers import AutoTokenizer

    try:
        return AutoTokenizer.from_pretrained(where)
    except (OSError, ValueError) as error:
        reason = " ".join(str(error).split())[:200]
        raise ValueError(f"model.tokenizer: cannot load {source!r} ({reason}); a local folder works too") from error
