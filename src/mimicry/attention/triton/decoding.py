"""Decoding with constant memory: the state of a prompt, and one token at a time in one kernel launch each."""

from typing import NamedTuple, no_type_check

import torch
import triton
import triton.language as tl
from torch import Tensor

from mimicry.attention.triton import launch
from mimicry.attention.triton.features import load_map, load_shift
from mimicry.attention.triton.fused import LinearMap, problem_of
from mimicry.attention.triton.problem import Problem
from mimicry.shapes import KeyMask, Keys, KeyState, KVState, Outputs, PerFeature, Queries, Values

# Value columns whose state a program holds at a time.
VALUE_TILE = 32


class DecodingState(NamedTuple):
    """What attention keeps of all keys so far, in float32; `decode` updates it in place.

    Attributes:
        kv_state: sum of phi(k) v^T, features in the order [exp(u), exp(-u)].
        k_state: sum of phi(k).
    """

    kv_state: KVState
    k_state: KeyState


def prompt_state(
    k: Keys, v: Values, key_map: LinearMap, *, key_mask: KeyMask | None = None, key_shift: PerFeature | None = None
) -> DecodingState:
    """The state after a prompt; of no keys at all, zero. Arguments as in `hedgehog_attention`; no gradient."""
    with torch.no_grad(), launch.device_of(k):
        problem = problem_of(k, k, v, key_map, key_map, True, key_mask, key_shift)
        state = launch.key_states(problem).sum(dim=1)
    batch, heads, _, width = v.shape
    features = 2 * key_map.weight.shape[1]
    size = features * width
    kv_state = state[:, :size].reshape(batch, heads, features, width).contiguous()
    return DecodingState(kv_state, state[:, size:].reshape(batch, heads, features).contiguous())


def decode(
    q: Queries,
    k: Keys,
    v: Values,
    state: DecodingState,
    query_map: LinearMap,
    key_map: LinearMap,
    *,
    key_shift: PerFeature | None = None,
    eps: float = 1.0e-30,
) -> Outputs:
    """Output of the next token, whose key and value enter the state first. No gradient.

    Args:
        q: its query, 1 token; dtypes, sizes and |W x + b| bounded as in `hedgehog_attention`.
        k: its key.
        v: its value.
        state: of all tokens before; updated in place.
        query_map: of the queries.
        key_map: of the keys.
        key_shift: the one `state` was begun with.
        eps: floor of the normaliser, > 0.

    Returns:
        What causal attention over all tokens gives for the last.

    Raises:
        ValueError: for other than 1 token, or a state that does not fit or is not contiguous float32.
    """
    if q.shape[2] != 1 or k.shape[2] != 1:
        raise ValueError(f"q and k must be 1 token when decoding, got {q.shape[2]} and {k.shape[2]}")
    batch, heads, _, width = v.shape
    features = query_map.weight.shape[1]
    for name, x, shape in (
        ("kv_state", state.kv_state, (batch, heads, 2 * features, width)),
        ("k_state", state.k_state, (batch, heads, 2 * features)),
    ):
        if tuple(x.shape) != shape or x.dtype != torch.float32 or not x.is_contiguous():
            raise ValueError(f"{name} must be contiguous float32 {shape}, got {x.dtype} {tuple(x.shape)}")
    with torch.no_grad(), launch.device_of(q):
        problem = problem_of(q, k, v, query_map, key_map, True, None, key_shift, eps)
        return launch_step(problem, state)


def launch_step(problem: Problem, state: DecodingState) -> Tensor:
    """Output of the one token of a problem that has been checked; its key and value enter the state."""
    q, k, v = problem.q, problem.k, problem.v
    y = torch.empty_like(v)
    decode_step[(problem.heads,)](
        q, q.stride()[:2], k, k.stride()[:2], v, v.stride()[:2], y, y.stride()[:2], state.kv_state, state.k_state,
        problem.query_weight, problem.query_bias, problem.key_weight, problem.key_bias, problem.key_shift, problem.eps,
        HEADS=q.shape[1], MAP_HEADS=problem.query_weight.shape[0], WIDTH=q.shape[3],
        FEATURES=problem.query_weight.shape[1], VALUE=problem.value_dim, TILE=min(VALUE_TILE, problem.value_dim),
        num_warps=4,
    )  # fmt: skip
    return y


@triton.jit
@no_type_check
def decode_step(
    q, q_strides, k, k_strides, v, v_strides, y, y_strides, kv_state, k_state,
    q_weight, q_bias, k_weight, k_bias, shift, eps,
    HEADS: tl.constexpr, MAP_HEADS: tl.constexpr, WIDTH: tl.constexpr, FEATURES: tl.constexpr, VALUE: tl.constexpr,
    TILE: tl.constexpr,
):  # fmt: skip
    """One token of one head: features, state and output, all in float32. Grid: heads of all examples."""
    head = tl.program_id(0)
    example, inner = tl.cast(head // HEADS, tl.int64), head % HEADS
    width, features = tl.arange(0, WIDTH), tl.arange(0, FEATURES)
    shift_plus, shift_minus = load_shift(shift, head, FEATURES)

    weight, bias = load_map(k_weight, k_bias, inner % MAP_HEADS, WIDTH, FEATURES, tl.float32)
    x = tl.load(k + example * k_strides[0] + inner * k_strides[1] + width).to(tl.float32)
    u = tl.sum(x[:, None] * weight, axis=0) + bias
    k_plus, k_minus = tl.exp(u - shift_plus), tl.exp(-u - shift_minus)

    weight, bias = load_map(q_weight, q_bias, inner % MAP_HEADS, WIDTH, FEATURES, tl.float32)
    x = tl.load(q + example * q_strides[0] + inner * q_strides[1] + width).to(tl.float32)
    u = tl.sum(x[:, None] * weight, axis=0) + bias
    plus, minus = u + shift_plus, shift_minus - u
    largest = tl.max(tl.maximum(plus, minus), axis=0)
    q_plus, q_minus = tl.exp(plus - largest), tl.exp(minus - largest)

    sums = k_state + tl.cast(head, tl.int64) * 2 * FEATURES + features
    all_plus, all_minus = tl.load(sums) + k_plus, tl.load(sums + FEATURES) + k_minus
    tl.store(sums, all_plus)
    tl.store(sums + FEATURES, all_minus)
    denominator = tl.maximum(tl.sum(q_plus * all_plus + q_minus * all_minus, axis=0), eps)
    for first in tl.static_range(0, VALUE, TILE):
        columns = first + tl.arange(0, TILE)
        value = tl.load(v + example * v_strides[0] + inner * v_strides[1] + columns).to(tl.float32)
        at = kv_state + tl.cast(head, tl.int64) * 2 * FEATURES * VALUE + features[:, None] * VALUE + columns[None, :]
        kv_plus = tl.load(at) + k_plus[:, None] * value[None, :]
        kv_minus = tl.load(at + FEATURES * VALUE) + k_minus[:, None] * value[None, :]
        tl.store(at, kv_plus)
        tl.store(at + FEATURES * VALUE, kv_minus)
        total = tl.sum(q_plus[:, None] * kv_plus + q_minus[:, None] * kv_minus, axis=0)
        result = (total / denominator).to(y.dtype.element_ty)
        tl.store(y + example * y_strides[0] + inner * y_strides[1] + columns, result)
