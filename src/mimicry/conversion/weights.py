"""Weights of converted models on disk: what is written of them, and whether what is read is whole."""

import copy
import json
from os import PathLike
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open
from torch import Tensor, nn

from mimicry.conversion.seam import ATTRIBUTE
from mimicry.conversion.site import find_sites
from mimicry.conversion.spec import layer_factories


def portable_state(model: nn.Module, state: dict[str, Tensor] | None, merge: bool) -> dict[str, Tensor]:
    """The weights under the names the host's own class has for them: no adapters, nothing twice.

    Args:
        model: with low-rank adapters or without; unchanged.
        state: its weights where they are not those it holds itself.
        merge: add adapters to the weights they adapt; otherwise leave them out.

    Raises:
        ValueError: if peft trains whole modules of the model, of which it holds two versions.
    """
    state = dict(model.state_dict() if state is None else state)
    if getattr(model, "peft_config", None):
        state = _without_adapters(model, state, merge)
    # Queries and keys may share a map, which a file cannot hold under two names.
    maps = [name for name in state if ATTRIBUTE in name]
    seen: set[tuple[int, Any]] = set()
    for name in maps:
        place = (state[name].data_ptr(), state[name].shape)
        if place in seen:
            del state[name]
        seen.add(place)
    return state


def check_weight_files(source: str | PathLike[str] | None, subfolder: str = "", variant: str | None = None) -> None:
    """Refuses a local folder whose safetensors files are not there, or not whole; a hub id is left to the host library.

    Raises:
        ValueError: naming the file.
    """
    folder = None if source is None else Path(source, subfolder)
    if folder is None or not folder.is_dir() or (folder / "adapter_config.json").is_file():
        return
    infix = "" if variant is None else f".{variant}"
    whole, index = folder / f"model{infix}.safetensors", folder / f"model.safetensors.index{infix}.json"
    if whole.is_file():
        read_header(whole)
    elif index.is_file():
        try:
            files = json.loads(index.read_text(encoding="utf-8"))["weight_map"]
        except (ValueError, TypeError, KeyError) as error:
            raise ValueError(f"{index} is no index of weights, the checkpoint is half-written") from error
        for name in sorted(set(files.values())):
            held = read_header(folder / name)
            if lost := sorted(key for key, file in files.items() if file == name and key not in held):
                raise ValueError(f"{folder / name} lacks {lost[0]}, which {index.name} says is there")
    else:
        raise ValueError(f"{folder} has no {whole.name}: the checkpoint is half-written or of another kind")


def read_header(path: Path) -> dict[str, tuple[int, ...]]:
    """Names and shapes of a safetensors file; ValueError if it is missing, cut off or something else."""
    if not path.is_file():
        raise ValueError(f"{path} is missing: the checkpoint is half-written")
    try:
        with safe_open(path, framework="pt") as file:
            return {name: tuple(file.get_slice(name).get_shape()) for name in file.keys()}  # noqa: SIM118
    except SafetensorError as error:
        raise ValueError(f"{path} is cut off or no safetensors file ({error})") from error


def check_maps(model: Any, source: Any, report: Any) -> None:
    """Refuses weights whose maps are not those of the model's attention; the host library would make up what it lacks.

    Args:
        model: being loaded.
        source: where from, for the message.
        report: of the host library, on what it found; maps that are one under two names are struck off what it misses.

    Raises:
        ValueError: naming one map.
    """
    shared = {
        name
        for name in report.missing_keys
        if ATTRIBUTE in name and getattr(model.get_parameter_or_buffer(name), "_is_hf_initialized", False)
    }
    report.missing_keys -= shared
    for found, problem in (
        (report.missing_keys, "lacks weights of its attention"),
        ({name for name, *_ in report.mismatched_keys}, "has weights of another shape than its attention"),
        (report.unexpected_keys, "has weights that the attention in its config does not"),
    ):
        if maps := sorted(name for name in found if ATTRIBUTE in name):
            raise ValueError(f"{source} {problem}: {maps[0]}")


def check_complete(model: Any, source: Any, report: Any) -> None:
    """Refuses missing weights where the model is what was saved; another head on it may start at random.

    Raises:
        ValueError: naming them.
    """
    if type(model).__name__ in (model.config.architectures or ()) and report.missing_keys:
        raise ValueError(f"{source} lacks weights: {', '.join(sorted(report.missing_keys)[:3])}")


def compute_tables(model: Any) -> None:
    """Fills the tables of the attentions that follow from their options alone, which no file holds."""
    sites = find_sites(model)
    for site, factory in zip(sites, layer_factories(model.config.mimicry["attention"], len(sites)), strict=True):
        attention = getattr(site.module, ATTRIBUTE)
        if any(module._non_persistent_buffers_set for module in attention.modules()):
            for module, computed in zip(attention.modules(), factory(dims=site.dims).modules(), strict=True):
                for name in module._non_persistent_buffers_set:
                    setattr(module, name, getattr(computed, name).to(getattr(module, name)))


def _without_adapters(model: nn.Module, state: dict[str, Tensor], merge: bool) -> dict[str, Tensor]:
    from peft.tuners.tuners_utils import BaseTunerLayer
    from peft.utils.other import AuxiliaryTrainingWrapper

    for name, module in model.named_modules():
        if isinstance(module, AuxiliaryTrainingWrapper):
            raise ValueError(f"model: {name} is trained whole by peft and cannot be saved; call merge_and_unload first")
        if isinstance(module, BaseTunerLayer):
            for key in [key for key in state if key.startswith(f"{name}.")]:
                del state[key]
            # A copy of one layer at a time: merging in place would round the weights in use.
            layer = module if merge == module.merged else copy.deepcopy(module)
            if merge and not layer.merged:
                layer.merge()
            elif layer.merged and not merge:
                layer.unmerge()
            state |= {f"{name}.{key}": value for key, value in layer.get_base_layer().state_dict().items()}
    return state
