"""Records what every Attention of a model was given, for distillation and for analysis."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from torch import nn

from mimicry.attention.base import Attention
from mimicry.shapes import KeyMask, Keys, Queries


@dataclass(frozen=True)
class Captured:
    """Projected queries and keys of one layer in one forward pass, and the padding mask they came with."""

    q: Queries
    k: Keys
    key_mask: KeyMask | None


def attention_layers(model: nn.Module) -> dict[str, Attention]:
    """Every Attention of `model` by its module name, in order."""
    return {name: module for name, module in model.named_modules() if isinstance(module, Attention)}


@contextmanager
def capture(model: nn.Module) -> Iterator[dict[str, Captured]]:
    """Inside the block, each forward pass of `model` fills the yielded dict: layer name -> what it attended over.

    The tensors stay part of the autograd graph; run the model under `torch.no_grad()` to record constants.
    """
    captured: dict[str, Captured] = {}

    def recorder(name: str) -> Any:
        def record(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
            given = dict(zip(("q", "k", "v", "key_mask"), args, strict=False)) | kwargs
            captured[name] = Captured(given["q"], given["k"], given.get("key_mask"))

        return record

    handles = [
        layer.register_forward_pre_hook(recorder(name), with_kwargs=True)
        for name, layer in attention_layers(model).items()
    ]
    try:
        yield captured
    finally:
        for handle in handles:
            handle.remove()
