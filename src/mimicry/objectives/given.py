"""Numbers whose gradients were formed along with them."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from mimicry.shapes import Scalar


def with_gradients(value: Scalar, inputs: Sequence[Tensor], gradients: Sequence[Tensor]) -> Scalar:
    """`value` as a function of `inputs` whose backward pass hands out `gradients`, once, scaled as they arrive.

    So a loss can be differentiated where its graph is small, and take part in a larger one.

    Args:
        value: a number without a graph.
        inputs: what it depends on.
        gradients: of `value`, one per input, of its shape and dtype. They are given away: scaled in place.
    """
    result: Scalar = _WithGradients.apply(value, len(inputs), *inputs, *gradients)  # type: ignore[no-untyped-call]
    return result


class _WithGradients(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, value: Tensor, count: int, *tensors: Tensor) -> Tensor:
        ctx.gradients = list(tensors[count:])
        return value.clone()

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad_output: Tensor) -> tuple[Tensor | None, ...]:
        if not ctx.gradients:
            raise RuntimeError("a loss formed with its gradients gives them away: form it anew for another backward")
        # Scaled in place: copies would double the memory of the loss.
        scaled = [gradient.mul_(grad_output) for gradient in ctx.gradients]
        ctx.gradients = []
        return None, None, *scaled, *[None] * len(scaled)
