"""Decoding with constant memory: the state of a prompt, and one token at a time, in one kernel launch each."""

from dataclasses import replace
from typing import no_type_check

import torch
import triton
import triton.language as tl
from torch import Tensor

from mimicry.attention.features import PLAIN_RANGE, finite
from mimicry.attention.state import LinearState
from mimicry.attention.triton import launch
from mimicry.attention.triton.features import load_map
from mimicry.attention.triton.fused import LinearMap, problem_of
from mimicry.attention.triton.problem import Problem
from mimicry.shapes import KeyMask, Keys, Outputs, PerFeature, Queries, Values

# Value columns whose state a program holds at a time.
VALUE_TILE = 32


@torch.no_grad()
def prompt_state(
    k: Keys, v: Values, key_map: LinearMap, *, key_mask: KeyMask | None = None, key_shift: PerFeature | None = None
) -> LinearState:
    """The state after a prompt; of no keys at all, zero. Arguments as in `hedgehog_attention`; no gradient.

    The shift may be -inf for features that no key was seen for.
    """
    with launch.device_of(k):
        shift = None if key_shift is None else finite(key_shift)
        problem = problem_of(k, k, v, key_map, key_map, True, key_mask, shift)
        sums = launch.key_states(problem).sum(dim=1)
    batch, heads, tokens, width = v.shape
    features = 2 * key_map.weight.shape[1]
    kv, total = sums.split([features * width, features], dim=1)
    kv = kv.reshape(batch, heads, features, width).contiguous()
    return LinearState(kv, total.reshape(batch, heads, features).contiguous(), key_shift, tokens)


@torch.no_grad()
def step(
    q: Queries,
    k: Keys,
    v: Values,
    state: LinearState,
    query_map: LinearMap,
    key_map: LinearMap,
    *,
    key_mask: KeyMask | None = None,
    eps: float = 1.0e-30,
    overwrite: bool = False,
) -> tuple[Outputs, LinearState]:
    """Output of the next token, and the state after it, which always has a shift. No gradient, and no size is unsafe.

    Args:
        q: its query, 1 token; dtypes and sizes as in `hedgehog_attention`.
        k: its key.
        v: its value.
        state: of all tokens before, in float32, of this layer and batch.
        query_map: of the queries.
        key_map: of the keys.
        key_mask: False for rows whose token is padding.
        eps: floor of the normaliser, > 0.
        overwrite: the memory of `state` becomes that of the new one.

    Returns:
        What causal attention over all tokens gives for the last.

    Raises:
        ValueError: for other than 1 token, or a state that does not fit or is not contiguous float32.
    """
    if q.shape[2] != 1 or k.shape[2] != 1:
        raise ValueError(f"q and k must be 1 token when decoding, got {q.shape[2]} and {k.shape[2]}")
    state = state.with_shift()
    batch, heads, _, width = v.shape
    features = 2 * query_map.weight.shape[1]
    shapes = {
        "kv": (batch, heads, features, width),
        "k": (batch, heads, features),
        "shift": (batch, heads, 1, features),
    }
    for name, shape in shapes.items():
        x = getattr(state, name)
        if x.shape != shape or x.dtype != torch.float32 or not x.is_contiguous():
            raise ValueError(f"state.{name} must be contiguous float32 {shape}, got {x.dtype} {tuple(x.shape)}")
    if not overwrite:
        assert state.shift is not None
        state = replace(state, kv=state.kv.clone(), k=state.k.clone(), shift=state.shift.clone())
    with launch.device_of(q):
        y = launch_step(problem_of(q, k, v, query_map, key_map, True, key_mask, None, eps), state)
    return y, replace(state, tokens=state.tokens + 1)


def launch_step(problem: Problem, state: LinearState) -> Tensor:
    """Output of the one token of a problem; its key and value enter the state in place."""
    q, k, v = problem.q, problem.k, problem.v
    y = torch.empty_like(v)
    decode_step[(problem.heads,)](
        q, q.stride()[:2], k, k.stride()[:2], v, v.stride()[:2], y, y.stride()[:2], state.kv, state.k, state.shift,
        problem.query_weight, problem.query_bias, problem.key_weight, problem.key_bias, problem.key_mask, problem.eps,
        HEADS=q.shape[1], MAP_HEADS=problem.query_weight.shape[0], WIDTH=q.shape[3],
        FEATURES=problem.query_weight.shape[1], VALUE=problem.value_dim, TILE=min(VALUE_TILE, problem.value_dim),
        RANGE=PLAIN_RANGE, num_warps=4,
    )  # fmt: skip
    return y


@triton.jit
@no_type_check
def token_projection(x, strides, weight, bias, example, head, MAP_HEADS: tl.constexpr, WIDTH: tl.constexpr,
                     FEATURES: tl.constexpr):  # fmt: skip
    """W x + b of the one token of a head, in float32."""
    w, b = load_map(weight, bias, head % MAP_HEADS, WIDTH, FEATURES, tl.float32)
    token = tl.load(x + example * strides[0] + head * strides[1] + tl.arange(0, WIDTH)).to(tl.float32)
    return tl.sum(token[:, None] * w, axis=0) + b


@triton.jit
@no_type_check
def follow(log_k, sums, shift, features, visible, RANGE: tl.constexpr):
    """One half of the key's features, their new sum and shift, and the factor from the old scale to the new.

    The shift follows an exponent that passes it by RANGE; most tokens leave the scale of the state alone.
    """
    log_k = tl.where(visible, log_k, float("-inf"))
    before = tl.load(shift + features)
    after = tl.where(log_k > before + RANGE, log_k, before)
    # Where no key was seen yet the sums are 0, and any finite shift serves.
    finite = tl.where(after == float("-inf"), 0.0, after)
    factor = tl.exp(before - finite)
    phi = tl.exp(log_k - finite)
    total = tl.load(sums + features) * factor + phi
    tl.store(shift + features, after)
    tl.store(sums + features, total)
    return phi, total, finite, factor


@triton.jit
@no_type_check
def decode_step(
    q, q_strides, k, k_strides, v, v_strides, y, y_strides, kv_state, k_state, shift,
    q_weight, q_bias, k_weight, k_bias, key_mask, eps,
    HEADS: tl.constexpr, MAP_HEADS: tl.constexpr, WIDTH: tl.constexpr, FEATURES: tl.constexpr, VALUE: tl.constexpr,
    TILE: tl.constexpr, RANGE: tl.constexpr,
):  # fmt: skip
    """One token of one head: features, state and output, all in float32. Grid: heads of all examples."""
    program = tl.program_id(0)
    example, head = tl.cast(program // HEADS, tl.int64), program % HEADS
    features = tl.arange(0, FEATURES)
    visible = True
    if key_mask is not None:
        visible = tl.load(key_mask + example) != 0

    u = token_projection(k, k_strides, k_weight, k_bias, example, head, MAP_HEADS, WIDTH, FEATURES)
    sums, shift = k_state + program * 2 * FEATURES, shift + program * 2 * FEATURES
    k_plus, sum_plus, shift_plus, factor_plus = follow(u, sums, shift, features, visible, RANGE)
    minus = features + FEATURES
    k_minus, sum_minus, shift_minus, factor_minus = follow(-u, sums, shift, minus, visible, RANGE)

    u = token_projection(q, q_strides, q_weight, q_bias, example, head, MAP_HEADS, WIDTH, FEATURES)
    log_plus, log_minus = u + shift_plus, shift_minus - u
    largest = tl.max(tl.maximum(log_plus, log_minus), axis=0)
    q_plus, q_minus = tl.exp(log_plus - largest), tl.exp(log_minus - largest)
    denominator = tl.maximum(tl.sum(q_plus * sum_plus + q_minus * sum_minus, axis=0), eps)

    state = kv_state + tl.cast(program, tl.int64) * 2 * FEATURES * VALUE
    for first in tl.static_range(0, VALUE, TILE):
        columns = first + tl.arange(0, TILE)
        value = tl.load(v + example * v_strides[0] + head * v_strides[1] + columns).to(tl.float32)
        # What stands at a masked key may be anything, and 0 times that is not 0.
        value = tl.where(visible, value, 0.0)
        at = state + features[:, None] * VALUE + columns[None, :]
        kv_plus = tl.load(at) * factor_plus[:, None] + k_plus[:, None] * value[None, :]
        kv_minus = tl.load(at + FEATURES * VALUE) * factor_minus[:, None] + k_minus[:, None] * value[None, :]
        tl.store(at, kv_plus)
        tl.store(at + FEATURES * VALUE, kv_minus)
        total = tl.sum(q_plus[:, None] * kv_plus + q_minus[:, None] * kv_minus, axis=0)
        result = (total / denominator).to(y.dtype.element_ty)
        tl.store(y + example * y_strides[0] + head * y_strides[1] + columns, result)
