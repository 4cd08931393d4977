"""Where attention sits in a host model, found by the adapter of its family."""

import importlib
import pkgutil
from collections.abc import Iterator
from dataclasses import dataclass
from types import ModuleType
from typing import Any

from torch import nn

from mimicry.attention import AttentionDims
from mimicry.conversion import adapters
from mimicry.conversion.refused import REFUSED, check_attention


@dataclass(frozen=True)
class AttentionSite:
    """One self-attention of a host model.

    Args:
        name: dotted module name inside the model.
        module: the host's attention module, which projects q, k and v and calls the registered attention function.
        dims: its sizes.
    """

    name: str
    module: nn.Module
    dims: AttentionDims


def supported_families() -> list[str]:
    """Hugging Face model types that have an adapter, sorted."""
    return sorted(module.name for module in pkgutil.iter_modules(adapters.__path__))


def adapter_of(config: Any) -> ModuleType:
    """The adapter module for a Hugging Face config.

    Raises:
        ValueError: if the family has none, or the config asks for attention that a linear form cannot honour.
    """
    if reason := REFUSED.get(str(config.model_type)):
        raise ValueError(
            f"model: architecture {config.model_type!r} cannot be converted: {reason}; linear attention knows nothing "
            f"but q.k, padding and causality; convertible: {', '.join(supported_families())}"
        )
    family = str(config.model_type).replace("-", "_")
    if family not in supported_families():
        raise ValueError(
            f"model: no attention seam for architecture {config.model_type!r}; "
            f"convertible: {', '.join(supported_families())}"
        )
    check_attention(config)
    return importlib.import_module(f"{adapters.__name__}.{family}")


def first_position(config: Any) -> int:
    """The row of a model's table of positions that its first token has: some families leave those up to padding's.

    Args:
        config: of the host library, or the values of a config file, which lacks what is as usual.

    Raises:
        ValueError: if the family has no adapter, or is one of these and has no padding.
    """
    if not hasattr(adapter_of(config), "POSITIONS_AFTER_PADDING"):
        return 0
    padding = getattr(config, "pad_token_id", 1)
    if padding is None:
        raise ValueError(f"model: {config.model_type!r} counts positions from pad_token_id on, which must not be null")
    return int(padding) + 1


def find_sites(model: nn.Module) -> list[AttentionSite]:
    """Every self-attention of a Hugging Face model, in order of depth; ValueError if the model has none we know."""
    config = getattr(model, "config", None)
    if config is None:
        raise ValueError(f"model must be a Hugging Face model with a config, got {type(model).__name__}")
    found = list(adapter_of(config).sites(model))
    if not found:
        raise ValueError(f"model: {type(model).__name__} holds no self-attention that its adapter knows")
    return found


def sites_of_class(
    model: nn.Module, attention_class: type[nn.Module], head_dim: str = "head_dim"
) -> Iterator[AttentionSite]:
    """Sites for the many families whose attention modules differ only in class and in the name of their width."""
    host: Any = model
    for name, module in model.named_modules():
        if isinstance(module, attention_class):
            attention: Any = module
            # The host library lets the configuration overrule the module, where it says anything.
            causal = getattr(host.config, "is_causal", None)
            causal = attention.is_causal if causal is None else causal
            heads = attention.config.num_attention_heads
            yield AttentionSite(name, module, AttentionDims(heads, getattr(attention, head_dim), bool(causal)))
