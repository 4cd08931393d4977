"""torch.compile for models whose attention it cannot trace."""

from collections.abc import Callable
from typing import Any

import torch
from torch import nn

from mimicry.attention import SoftmaxAttention
from mimicry.attention.capture import attention_layers


def compile_model(model: nn.Module, backend: str | Callable[..., Any] = "inductor") -> None:
    """Compiles `model` in place, so that parameter names stay; softmax models become one graph.

    Linear attentions decide by the values of their inputs how to stay in float32's range, and write to memory that
    outlives the call: they run as they are, and what lies around them is compiled.

    Args:
        model: any model whose attentions are ours.
        backend: of torch.compile.
    """
    for attention in attention_layers(model).values():
        if not isinstance(attention, SoftmaxAttention):
            attention.forward = torch.compiler.disable(attention.forward)  # type: ignore[method-assign]
    model.compile(backend=backend)
