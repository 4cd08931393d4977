"""Fused Hedgehog attention: the public function and its gradient."""

from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from mimicry.attention.triton import launch
from mimicry.attention.triton.problem import DTYPES, INTERPRETED, Problem
from mimicry.attention.triton.tiles import H100, Plan
from mimicry.shapes import HeadMatrix, KeyMask, Keys, Outputs, PerFeature, Queries, Values

# Largest |W x + b| at which nothing overflows or vanishes in float32: exponents of products stay within +-3 * 38, those
# of features within +-2 * 38.
LIMIT = 38.0
WIDTHS = (16, 32, 64, 128)


class LinearMap(NamedTuple):
    """u = W x + b of the feature map [exp(u), exp(-u)].

    Attributes:
        weight: one (num_features, head_dim) matrix per head, or one for all heads.
        bias: (heads, 1, num_features), or None.
    """

    weight: Tensor
    bias: Tensor | None = None


def hedgehog_attention(
    q: Queries,
    k: Keys,
    v: Values,
    query_map: LinearMap,
    key_map: LinearMap,
    *,
    causal: bool,
    key_mask: KeyMask | None = None,
    key_shift: PerFeature | None = None,
    eps: float = 1.0e-30,
    plan: Plan | None = None,
) -> Outputs:
    """y_i = sum_j phi(q_i) . phi(k_j) v_j / sum_j phi(q_i) . phi(k_j), phi(x) = [exp(W x + b), exp(-W x - b)].

    Features never reach device memory, forward or backward. Sums, states and normalisers are float32. Half-precision
    inputs are multiplied as such by W rounded alike; features, values and gradients are rounded to bfloat16 as
    operands of products.

    Args:
        q: float32, float16 or bfloat16; width and number of features are powers of two from 16 to 128.
        k: keys, as many as queries when causal.
        v: values of the same dtype, their width also a power of two from 16 to 128.
        query_map: of the queries.
        key_map: of the keys, of the same sizes.
        causal: whether query i may attend only to keys j <= i.
        key_mask: True where a key may be attended to; what stands elsewhere in k and v is never read.
        key_shift: taken off the exponents of every key and added to those of every query, a constant that cancels;
            without one, |W x + b| must stay below `LIMIT` for queries and keys, which is not checked. With the largest
            exponent of all keys per feature, any size is safe when not causal.
        eps: floor of the normaliser, > 0; rows without a visible key are 0.
        plan: tile sizes; None takes those for an H100.

    Returns:
        Outputs in the inputs' dtype.

    Raises:
        ValueError: for sizes, dtypes or devices the kernels are not made for.

    Source: arXiv 2402.04347, Eq. 2 and Sec. 4; chunks and segments as in `attention/causal.py`.
    """
    _check(q, k, v, query_map, key_map, causal, key_mask, key_shift, eps)
    widest = max(q.shape[3], v.shape[3], query_map.weight.shape[1])
    q, k, v = (x if x.stride(3) == 1 else x.contiguous() for x in (q, k, v))
    shift = None if key_shift is None else key_shift.detach().float().contiguous()
    mask = None if key_mask is None else key_mask.contiguous()
    maps = [None if x is None else x.contiguous() for x in (*query_map, *key_map)]
    plan = plan or H100[widest]
    return _HedgehogAttention.apply(q, k, v, *maps, mask, shift, causal, eps, plan)  # type: ignore[no-untyped-call]


class _HedgehogAttention(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, *inputs: Any) -> Tensor:
        problem = Problem(*inputs)
        with torch.cuda.device_of(problem.q):
            y, normalisers, states = launch.outputs(problem)
        ctx.save_for_backward(*inputs[:9], y, normalisers, states)
        ctx.constants = inputs[9:]
        return y

    @staticmethod
    @once_differentiable  # type: ignore[untyped-decorator]
    def backward(ctx: Any, dy: Tensor) -> tuple[Tensor | None, ...]:
        *inputs, y, normalisers, states = ctx.saved_tensors
        problem = Problem(*inputs, *ctx.constants)
        dy = dy if dy.stride(3) == 1 else dy.contiguous()
        with torch.cuda.device_of(dy):
            gradients = launch.gradients(problem, dy, y, normalisers, states)
        return *gradients, None, None, None, None, None


def _check(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    query_map: LinearMap,
    key_map: LinearMap,
    causal: bool,
    key_mask: Tensor | None,
    key_shift: Tensor | None,
    eps: float,
) -> None:
    if q.dtype not in DTYPES or (k.dtype, v.dtype) != (q.dtype, q.dtype):
        raise ValueError(f"q, k, v must share float32, float16 or bfloat16, got {q.dtype}, {k.dtype}, {v.dtype}")
    if not (q.is_cuda or INTERPRETED):
        raise ValueError(f"q must be on a GPU unless TRITON_INTERPRET=1 was set before Triton loaded, got {q.device}")
    features, width = query_map.weight.shape[1:]
    for name, size in (("head_dim", q.shape[3]), ("num_features", features), ("value width", v.shape[3])):
        if size not in WIDTHS:
            raise ValueError(f"{name} must be one of {WIDTHS}, got {size}")
    if causal and q.shape[2] != k.shape[2]:
        raise ValueError(f"q must have as many tokens as k ({k.shape[2]}) when causal, got {q.shape[2]}")
    if eps <= 0:
        raise ValueError(f"eps must be > 0, got {eps}")
    for name, linear in (("query_map", query_map), ("key_map", key_map)):
        heads = linear.weight.shape[0]
        if tuple(linear.weight.shape) != (query_map.weight.shape[0], features, q.shape[3]) or heads not in (1, q.shape[1]):
            raise ValueError(
                f"{name}.weight must be (1 or {q.shape[1]}, {features}, {q.shape[3]}), got {tuple(linear.weight.shape)}"
            )
        if linear.bias is not None and tuple(linear.bias.shape) != (heads, 1, features):
            raise ValueError(f"{name}.bias must be ({heads}, 1, {features}), got {tuple(linear.bias.shape)}")
    if key_mask is not None and (key_mask.dtype != torch.bool or key_mask.shape != (k.shape[0], k.shape[2])):
        raise ValueError(f"key_mask must be bool {(k.shape[0], k.shape[2])}, got {key_mask.dtype} {key_mask.shape}")
