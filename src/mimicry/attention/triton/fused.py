"""Fused Hedgehog attention: the public function and its gradient."""

from dataclasses import fields
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from mimicry.attention.feature_maps.base import FeatureMap
from mimicry.attention.feature_maps.hedgehog import HedgehogFeatureMap
from mimicry.attention.triton import launch, unfit
from mimicry.attention.triton.problem import DTYPES, INTERPRETED, Problem
from mimicry.attention.triton.tiles import Plan, default_plan
from mimicry.shapes import KeyMask, Keys, Outputs, PerFeature, Queries, Values

# Largest |W x + b| at which nothing overflows or vanishes in float32: exponents of products stay within +-3 * 38, those
# of features within +-2 * 38.
LIMIT = 38.0


class LinearMap(NamedTuple):
    """u = W x + b of the feature map [exp(u), exp(-u)].

    Attributes:
        weight: one (num_features, head_dim) matrix per head, or one for all heads.
        bias: (heads, 1, num_features), or None.
    """

    weight: Tensor
    bias: Tensor | None = None

    def contiguous(self) -> "LinearMap":
        """Itself, laid out row by row."""
        return LinearMap(self.weight.contiguous(), None if self.bias is None else self.bias.contiguous())


def linear_map(feature_map: FeatureMap) -> LinearMap:
    """The projection of a Hedgehog map with the scale of its inputs in it."""
    assert isinstance(feature_map, HedgehogFeatureMap)
    projection = feature_map.projection
    scale = projection.input_scale
    return LinearMap(projection.weight if scale == 1.0 else projection.weight * scale, projection.bias)


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
        q: float32, float16 or bfloat16; width and number of features are powers of two from 16 to 128, to 64 for
            float32 on a GPU.
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
        plan: tile sizes; None takes those for an H100, unmeasured so far.

    Returns:
        Outputs in the inputs' dtype.

    Raises:
        ValueError: for sizes, dtypes or devices the kernels are not made for.

    Source: arXiv 2402.04347, Eq. 2 and Sec. 4; chunks and segments as in `attention/causal.py`.
    """
    problem = problem_of(q, k, v, query_map, key_map, causal, key_mask, key_shift, eps, plan)
    inputs = [getattr(problem, field.name) for field in fields(problem)]
    return _HedgehogAttention.apply(*inputs)  # type: ignore[no-untyped-call]


def problem_of(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    query_map: LinearMap,
    key_map: LinearMap,
    causal: bool,
    key_mask: Tensor | None = None,
    key_shift: Tensor | None = None,
    eps: float = 1.0e-30,
    plan: Plan | None = None,
) -> Problem:
    """The inputs checked, and laid out as the kernels read them; heads and tokens may be in any order in memory."""
    _check(q, k, v, query_map, key_map, causal, key_mask, key_shift, eps)
    q, k, v = (x if x.stride(3) == 1 else x.contiguous() for x in (q, k, v))
    (q_weight, q_bias), (k_weight, k_bias) = query_map.contiguous(), key_map.contiguous()
    mask = None if key_mask is None else key_mask.contiguous()
    shift = None if key_shift is None else key_shift.detach().float().contiguous()
    widest = max(q.shape[3], v.shape[3], query_map.weight.shape[1])
    return Problem(
        q,
        k,
        v,
        q_weight,
        q_bias,
        k_weight,
        k_bias,
        mask,
        shift,
        causal,
        eps,
        plan or default_plan(widest, q.dtype, q.device),
    )


class _HedgehogAttention(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, *inputs: Any) -> Tensor:
        problem = Problem(*inputs)
        with launch.device_of(problem.q):
            y, normalisers, states = launch.outputs(problem)
        ctx.save_for_backward(*inputs[:9], y, normalisers, states)
        ctx.constants = inputs[9:]
        return y

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, dy: Tensor) -> tuple[Tensor | None, ...]:
        *inputs, y, normalisers, states = ctx.saved_tensors
        problem = Problem(*inputs, *ctx.constants)
        dy = dy if dy.stride(3) == 1 else dy.contiguous()
        with launch.device_of(dy):
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
    heads, features = q.shape[1], query_map.weight.shape[1]
    if k.shape[:2] != q.shape[:2] or k.shape[3] != q.shape[3] or v.shape[:3] != k.shape[:3]:
        raise ValueError(f"k and v must fit q {tuple(q.shape)}, got {tuple(k.shape)} and {tuple(v.shape)}")
    sizes = (q.shape[3], v.shape[3], features)
    if (reason := unfit(sizes, q.dtype, causal, q.shape[2], k.shape[2])) is not None:
        raise ValueError(reason)
    if eps <= 0:
        raise ValueError(f"eps must be > 0, got {eps}")
    for name, linear in (("query_map", query_map), ("key_map", key_map)):
        maps, shape = query_map.weight.shape[0], tuple(linear.weight.shape)
        if shape != (maps, features, q.shape[3]) or maps not in (1, heads):
            raise ValueError(f"{name}.weight must be (1 or {heads}, {features}, {q.shape[3]}), got {shape}")
        if linear.bias is not None and tuple(linear.bias.shape) != (maps, 1, features):
            raise ValueError(f"{name}.bias must be ({maps}, 1, {features}), got {tuple(linear.bias.shape)}")
    tokens = (k.shape[0], k.shape[2])
    if key_mask is not None and (key_mask.dtype != torch.bool or key_mask.shape != tokens):
        raise ValueError(f"key_mask must be bool of shape {tokens}, got {key_mask.dtype} {tuple(key_mask.shape)}")
    sums = (*q.shape[:2], 1, 2 * features)
    if key_shift is not None and key_shift.shape != sums:
        raise ValueError(f"key_shift must be of shape {sums}, got {tuple(key_shift.shape)}")
