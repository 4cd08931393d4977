"""Low-rank adapters of converted models on disk, in peft's own format, and which model they belong to."""

import copy
import hashlib
import json
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

from mimicry.conversion.weights import portable_state, read_header

# In a folder that was saved with a separate adapter, where that is.
FOLDER = "adapter"
CONFIG, WEIGHTS = "adapter_config.json", "adapter_model.safetensors"
# How peft begins the names of weights, and how we note in the file's metadata which model they were trained for.
PREFIX = "base_model.model."
BASE = "mimicry_base"
# Of each weight tensor so many values tell two models apart: training changes all of them.
PROBED = 1024


def fingerprint(state: dict[str, Tensor]) -> str:
    """Of weights as `portable_state` gives them: equal in float32 and bfloat16, another after any training."""
    digest = hashlib.sha256()
    for name, tensor in sorted(state.items()):
        probe = tensor.detach().flatten()[:PROBED]
        probe = probe.bfloat16().view(torch.int16) if probe.is_floating_point() else probe
        digest.update(f"{name} {tuple(tensor.shape)}".encode() + probe.cpu().numpy().tobytes())
    return digest.hexdigest()


def save_adapter(model: Any, folder: Path, base: str) -> None:
    """Writes the model's adapter for `peft.PeftModel.from_pretrained` and `load_adapter`.

    Args:
        model: with one low-rank adapter.
        folder: made if needed.
        base: folder or hub id of the converted model without it.

    Raises:
        ValueError: if it has no adapter, or several.
    """
    from peft import get_peft_model_state_dict

    names = list(getattr(model, "peft_config", {}))
    if len(names) != 1:
        raise ValueError(f"adapters=separate needs a model with one adapter, got {', '.join(names) or 'none'}")
    config = copy.deepcopy(model.peft_config[names[0]])
    config.base_model_name_or_path, config.inference_mode = base, True
    folder.mkdir(parents=True, exist_ok=True)
    config.save_pretrained(folder)
    # Embeddings are the base's; to look for changed ones peft would ask the hub.
    state = get_peft_model_state_dict(model, adapter_name=names[0], save_embedding_layers=False)
    tensors = {f"{PREFIX}{name}": tensor.contiguous() for name, tensor in state.items()}
    save_file(tensors, folder / WEIGHTS, metadata={"format": "pt", BASE: fingerprint(_without(model))})


def check_adapter(model: Any, folder: Path) -> None:
    """Refuses an adapter that was trained for another model than this one, or does not fit it.

    One that was not saved by `save_adapter` does not say which model it was trained for, and is checked for shapes.

    Raises:
        ValueError: naming both models, or the layer that does not fit, or the file that is missing or cut off.
    """
    try:
        config = json.loads((folder / CONFIG).read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise ValueError(f"adapter: {folder / CONFIG} cannot be read ({error})") from error
    if not isinstance(config, dict):
        raise ValueError(f"adapter: {folder / CONFIG} must hold a mapping, got {config!r}")
    base, shapes = config.get("base_model_name_or_path"), read_header(folder / WEIGHTS)
    this = model.name_or_path or "one that was not loaded from anywhere"
    base_weights = trained_for(folder)
    if base_weights is not None and base_weights != fingerprint(_without(model)):
        raise ValueError(f"adapter: {folder} was trained for another model ({base}) than this one ({this})")
    for name, shape in shapes.items():
        layer, kind, _ = name.removeprefix(PREFIX).rpartition(".lora_A.")
        if kind and _inputs(model, layer) != shape[1]:
            raise ValueError(f"adapter: {folder}, trained for {base}, does not fit {this}: {layer} is not of its size")


def drop_stale_adapter(folder: Path, state: dict[str, Tensor]) -> None:
    """Removes an adapter that `save_adapter` wrote for other weights than those that are saved beside it now.

    Args:
        folder: of the adapter, there or not.
        state: the weights, as `portable_state` gives them.
    """
    written_for = trained_for(folder)
    if written_for is not None and written_for != fingerprint(state):
        for name in (CONFIG, WEIGHTS):
            (folder / name).unlink(missing_ok=True)
        if not any(folder.iterdir()):
            folder.rmdir()


def trained_for(folder: Path) -> str | None:
    """The fingerprint of the weights that an adapter of `save_adapter` belongs to; None if there is none of it."""
    try:
        with safe_open(folder / WEIGHTS, framework="pt") as file:
            return (file.metadata() or {}).get(BASE)
    except (OSError, SafetensorError):
        return None


def _without(model: nn.Module) -> dict[str, Tensor]:
    """The model's weights without its adapters."""
    return portable_state(model, None, merge=False)


def _inputs(model: nn.Module, name: str) -> int | None:
    """Inputs of a linear layer of the model; None if it has no such layer."""
    try:
        layer: Any = model.get_submodule(name)
    except AttributeError:
        return None
    # Conv1D, the transposed layer of GPT-2, has no such attribute.
    return getattr(layer, "in_features", None) or int(layer.weight.shape[0])
