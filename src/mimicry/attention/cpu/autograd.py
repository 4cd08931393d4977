"""The kernels in C as an operation with gradients."""

from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from mimicry.attention.cpu.hedgehog import Kernels
from mimicry.attention.feature_maps.base import FeatureMap
from mimicry.attention.streaming_blocks import by_parameter, parameters_of
from mimicry.shapes import KeyMask, Keys, Outputs, Queries, Values


def compiled_attention(
    query_map: FeatureMap,
    key_map: FeatureMap,
    q: Queries,
    k: Keys,
    v: Values,
    key_mask: KeyMask | None,
    causal: bool,
    eps: float,
) -> Outputs:
    """Attention outputs, where `hedgehog.serves` says so; causal needs as many queries as keys.

    Raises:
        OutOfRangeError: where plain exponentials do not serve.
    """
    maps = query_map, key_map
    outputs: Outputs = _Compiled.apply(*maps, key_mask, causal, eps, q, k, v, *parameters_of(*maps))  # type: ignore[no-untyped-call]
    return outputs


class _Compiled(torch.autograd.Function):
    """Inputs: maps of queries and of keys, key_mask, causal, eps, q, k, v, then every parameter of both maps once."""

    @staticmethod
    def forward(
        ctx: Any,
        query_map: FeatureMap,
        key_map: FeatureMap,
        key_mask: KeyMask | None,
        causal: bool,
        eps: float,
        q: Queries,
        k: Keys,
        v: Values,
        *parameters: Tensor,
    ) -> Outputs:
        kernels = Kernels(query_map, key_map, q, k, v, key_mask, eps)
        if causal:
            state: tuple[Tensor, ...] = ()
            out, inverse = kernels.causal(*kernels.empty_state())
        else:
            state = kernels.sum_keys()
            out, inverse = kernels.read(*state)
        ctx.save_for_backward(q, k, v, key_mask, out, inverse, *state)
        ctx.maps, ctx.eps = (query_map, key_map), eps
        return out

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        q, k, v, key_mask, out, inverse, *state = ctx.saved_tensors
        query_map, key_map = ctx.maps
        kernels = Kernels(query_map, key_map, q, k, v, key_mask, ctx.eps)
        of_q, of_k, of_v, totals = kernels.backward(tuple(state) or None, out, inverse, grad)
        return (None, None, None, None, None, of_q, of_k, of_v, *by_parameter(query_map, key_map, totals))
