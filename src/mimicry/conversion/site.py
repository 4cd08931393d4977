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

_DISENTANGLED = "disentangled relative-position terms are added to q.k"
_RELATIVE_BIAS = "a learnt bias of the relative position is added to q.k"
_ALIBI = "ALiBi biases of the distance are added to q.k"
_WINDOW = "its tokens attend within a sliding window, and to a few global ones"
# Families that no adapter can help, by Hugging Face model type, and why; read in the sources of transformers 5.23.0.
REFUSED = {
    "beit": _RELATIVE_BIAS,
    "big_bird": "its attention is block-sparse",
    "bloom": _ALIBI,
    "data2vec-vision": _RELATIVE_BIAS,
    "deberta": _DISENTANGLED,
    "deberta-v2": _DISENTANGLED,
    "fnet": "it mixes tokens by Fourier transforms and has no attention",
    "funnel": "relative-position and token-type terms are added to q.k",
    "led": _WINDOW,
    "longformer": _WINDOW,
    "longt5": _RELATIVE_BIAS,
    "mpnet": _RELATIVE_BIAS,
    "mpt": _ALIBI,
    "mt5": _RELATIVE_BIAS,
    "reformer": "hashing and windows decide which tokens attend to which",
    "sew-d": _DISENTANGLED,
    "swin": "its tokens attend within shifted windows, with a learnt bias of the position",
    "switch_transformers": _RELATIVE_BIAS,
    "t5": _RELATIVE_BIAS,
    "umt5": _RELATIVE_BIAS,
    "xlnet": "relative-position and segment terms are added to q.k",
}


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
            f"model: architecture {config.model_type!r} cannot be converted: {reason}, "
            f"but linear attention knows q.k alone; convertible: {', '.join(supported_families())}"
        )
    family = str(config.model_type).replace("-", "_")
    if family not in supported_families():
        raise ValueError(
            f"model: no attention seam for architecture {config.model_type!r}; "
            f"convertible: {', '.join(supported_families())}"
        )
    position = getattr(config, "position_embedding_type", None) or "absolute"
    if position != "absolute":
        raise ValueError(f"model: position_embedding_type must be absolute (scores from q.k alone), got {position!r}")
    if getattr(config, "add_cross_attention", False):
        raise ValueError("model: cross-attention cannot be converted, got add_cross_attention=True")
    return importlib.import_module(f"{adapters.__name__}.{family}")


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
    model: nn.Module, attention_class: type[nn.Module], num_heads: str, head_dim: str = "attention_head_size"
) -> Iterator[AttentionSite]:
    """Sites for the many families whose attention modules differ only in class and in the names of their sizes."""
    for name, module in model.named_modules():
        if isinstance(module, attention_class):
            host: Any = module
            dims = AttentionDims(getattr(host, num_heads), getattr(host, head_dim), causal=bool(host.is_causal))
            yield AttentionSite(name, module, dims)
