"""Shows what every Attention of a model was given and gave, for distillation and for analysis."""

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from mimicry.attention.base import Attention
from mimicry.shapes import KeyMask, Keys, Outputs, Queries, Values


@dataclass(frozen=True)
class Captured:
    """What one layer attended over in one forward pass: projected states, the padding mask, and what came of them."""

    q: Queries
    k: Keys
    v: Values
    key_mask: KeyMask | None
    outputs: Outputs


def attention_layers(model: nn.Module) -> dict[str, Attention]:
    """Every Attention of `model` by its module name, in order."""
    return {name: module for name, module in model.named_modules() if isinstance(module, Attention)}


@contextmanager
def watching(model: nn.Module, see: Callable[[str, Captured], None]) -> Iterator[None]:
    """Inside the block, each forward pass of `model` calls `see` after every attention layer, with the layer's name.

    Nothing is kept: what `see` lets go of is freed before the next layer runs. Its exceptions end the forward pass.
    A model that runs through torch.compile, where hooks are not seen, runs as it is inside the block.
    """

    def watcher(name: str) -> Any:
        def watch(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any], outputs: Tensor) -> None:
            given = dict(zip(("q", "k", "v", "key_mask"), args, strict=False)) | kwargs
            see(name, Captured(given["q"], given["k"], given["v"], given.get("key_mask"), outputs))

        return watch

    handles = [
        layer.register_forward_hook(watcher(name), with_kwargs=True) for name, layer in attention_layers(model).items()
    ]
    try:
        with _as_it_is(model):
            yield
    finally:
        for handle in handles:
            handle.remove()


def _as_it_is(model: nn.Module) -> AbstractContextManager[Any]:
    # Asked for where it is needed alone: the compiler takes seconds to import.
    compiled = any(module._compiled_call_impl is not None for module in model.modules())
    return torch.compiler.set_stance("force_eager") if compiled else nullcontext()


@contextmanager
def capture(model: nn.Module) -> Iterator[dict[str, Captured]]:
    """Inside the block, each forward pass of `model` fills the yielded dict: layer name -> what it attended over.

    The tensors stay part of the autograd graph; run the model under `torch.no_grad()` to record constants.
    """
    captured: dict[str, Captured] = {}
    with watching(model, captured.__setitem__):
        yield captured
