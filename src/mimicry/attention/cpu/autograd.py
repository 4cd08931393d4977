"""The kernels in C as an operation with gradients."""

from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from mimicry.attention.cpu.hedgehog import Kernels
from mimicry.attention.inputs import Maps, Tokens
from mimicry.attention.streaming_blocks import by_parameter, parameters_of
from mimicry.shapes import KeyMask, Keys, Outputs, Queries, Values


def compiled_attention(maps: Maps, tokens: Tokens, causal: bool) -> Outputs:
    """Attention outputs, where `hedgehog.serves` says so; causal needs as many queries as keys.

    Raises:
        OutOfRangeError: where plain exponentials do not serve.
    """
    outputs: Outputs = _Compiled.apply(maps, causal, *tokens, *parameters_of(maps))  # type: ignore[no-untyped-call]
    return outputs


class _Compiled(torch.autograd.Function):
    """Inputs: maps, causal, q, k, v, key_mask, then every parameter of both maps once."""

    @staticmethod
    def forward(
        ctx: Any,
        maps: Maps,
        causal: bool,
        q: Queries,
        k: Keys,
        v: Values,
        key_mask: KeyMask | None,
        *parameters: Tensor,
    ) -> Outputs:
        kernels = Kernels(maps, Tokens(q, k, v, key_mask))
        if causal:
            state: tuple[Tensor, ...] = ()
            out, inverse = kernels.causal(*kernels.empty_state())
        else:
            state = kernels.sum_keys()
            out, inverse = kernels.read(*state)
        ctx.save_for_backward(q, k, v, key_mask, out, inverse, *state)
        ctx.maps = maps
        return out

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        q, k, v, key_mask, out, inverse, *state = ctx.saved_tensors
        kernels = Kernels(ctx.maps, Tokens(q, k, v, key_mask))
        of_q, of_k, of_v, totals = kernels.backward(tuple(state) or None, out, inverse, grad)
        return (None, None, of_q, of_k, of_v, None, *by_parameter(ctx.maps, totals))
