"""What all kernels share: tiles in and out of memory, and the exponential features of one tile.

With u = W x + b, keys have the features exp(u - c) and exp(-u - c') for a shift (c, c') that is the same for all keys,
and queries exp(u + c - m) and exp(-u + c' - m) for the largest exponent m of each query. Both shifts cancel in the
normalised weights. The two halves are called `plus` and `minus`. They are never laid side by side, and kernels finish
with one before they form the other, which keeps most of what is live in registers.
"""

from typing import no_type_check

import triton
import triton.language as tl


@triton.jit
@no_type_check
def product(a, b, OPERAND: tl.constexpr):
    """A b with float32 sums; float32 operands are cut in parts for tensor cores, which keeps their precision."""
    return tl.dot(a.to(OPERAND), b.to(OPERAND), input_precision="tf32x3")


@triton.jit
@no_type_check
def accumulate(total, a, b, OPERAND: tl.constexpr):
    """Total + a b, as `product`."""
    return tl.dot(a.to(OPERAND), b.to(OPERAND), acc=total, input_precision="tf32x3")


@triton.jit
@no_type_check
def head_pointer(base, strides, batch_head, HEADS: tl.constexpr):
    """Start of one head of a (batch, heads, tokens, width) tensor; 64-bit, long inputs exceed 2^31 elements."""
    example, head = tl.cast(batch_head // HEADS, tl.int64), tl.cast(batch_head % HEADS, tl.int64)
    return base + example * strides[0] + head * strides[1]


@triton.jit
@no_type_check
def load_tile(head, stride, start, columns, present, CHUNK: tl.constexpr):
    """Rows `start` ... `start + CHUNK` of one head; rows that are not `present` are 0."""
    rows = tl.arange(0, CHUNK)
    at = head + tl.cast(start, tl.int64) * stride + rows[:, None] * stride + columns[None, :]
    return tl.load(at, mask=present[:, None], other=0.0)


@triton.jit
@no_type_check
def store_tile(head, stride, start, columns, present, tile, CHUNK: tl.constexpr):
    """The inverse of `load_tile`, rounding to the dtype in memory."""
    rows = tl.arange(0, CHUNK)
    at = head + tl.cast(start, tl.int64) * stride + rows[:, None] * stride + columns[None, :]
    tl.store(at, tile.to(head.dtype.element_ty), mask=present[:, None])


@triton.jit
@no_type_check
def visible_keys(key_mask, batch, start, tokens, CHUNK: tl.constexpr):
    """Which keys of a chunk exist and are not masked."""
    rows = start + tl.arange(0, CHUNK)
    present = rows < tokens
    if key_mask is not None:
        present = present & (tl.load(key_mask + tl.cast(batch, tl.int64) * tokens + rows, mask=present, other=0) != 0)
    return present


@triton.jit
@no_type_check
def load_map(weight, bias, head, WIDTH: tl.constexpr, FEATURES: tl.constexpr, INPUT: tl.constexpr):
    """W^T, rounded like the inputs it multiplies, and b in float32."""
    columns = tl.arange(0, WIDTH)
    features = tl.arange(0, FEATURES)
    w = tl.load(weight + head * FEATURES * WIDTH + features[None, :] * WIDTH + columns[:, None]).to(INPUT)
    b = tl.zeros((FEATURES,), tl.float32)
    if bias is not None:
        b = tl.load(bias + head * FEATURES + features).to(tl.float32)
    return w, b


@triton.jit
@no_type_check
def load_shift(shift, batch_head, FEATURES: tl.constexpr):
    """The two halves of one head's shift, 0 without one."""
    features = tl.arange(0, FEATURES)
    if shift is None:
        plus = tl.zeros((FEATURES,), tl.float32)
        minus = plus
    else:
        at = shift + tl.cast(batch_head, tl.int64) * 2 * FEATURES + features
        plus = tl.load(at)
        minus = tl.load(at + FEATURES)
    return plus, minus


@triton.jit
@no_type_check
def project(x, weight, bias, INPUT: tl.constexpr):
    """U = W x + b of a chunk."""
    return product(x, weight, INPUT) + bias[None, :]


@triton.jit
@no_type_check
def key_features(u, shift, visible, SIGN: tl.constexpr):
    """One half of phi(k), SIGN 1 or -1; keys out of sight have no features."""
    return tl.where(visible[:, None], tl.exp(SIGN * u - shift[None, :]), 0.0)


@triton.jit
@no_type_check
def largest_exponents(u, shift_plus, shift_minus):
    """Of each query, over both halves."""
    return tl.max(tl.maximum(u + shift_plus[None, :], shift_minus[None, :] - u), axis=1)


@triton.jit
@no_type_check
def query_features(u, shift, largest, SIGN: tl.constexpr):
    """One half of phi(q), SIGN 1 or -1; the largest feature of each query is 1."""
    return tl.exp(SIGN * u + shift[None, :] - largest[:, None])


@triton.jit
@no_type_check
def load_state(states, index, columns, FEATURES: tl.constexpr, VALUE: tl.constexpr, TILE: tl.constexpr):
    """Some value columns of sum phi v^T, and sum phi, each in two halves; 0 without states.

    One state is 2 FEATURES x VALUE numbers followed by 2 FEATURES.
    """
    features = tl.arange(0, FEATURES)
    if states is None:
        kv_plus = tl.zeros((FEATURES, TILE), tl.float32)
        kv_minus = kv_plus
        plus = tl.zeros((FEATURES,), tl.float32)
        minus = plus
    else:
        at = states + tl.cast(index, tl.int64) * (2 * FEATURES * (VALUE + 1))
        here = at + features[:, None] * VALUE + columns[None, :]
        kv_plus = tl.load(here)
        kv_minus = tl.load(here + FEATURES * VALUE)
        plus = tl.load(at + 2 * FEATURES * VALUE + features)
        minus = tl.load(at + 2 * FEATURES * VALUE + FEATURES + features)
    return kv_plus, kv_minus, plus, minus


@triton.jit
@no_type_check
def store_state(
    states, index, columns, kv_plus, kv_minus, plus, minus, first, FEATURES: tl.constexpr, VALUE: tl.constexpr
):
    """The inverse of `load_state`; only the program of the first columns stores sum phi."""
    features = tl.arange(0, FEATURES)
    at = states + tl.cast(index, tl.int64) * (2 * FEATURES * (VALUE + 1))
    here = at + features[:, None] * VALUE + columns[None, :]
    tl.store(here, kv_plus)
    tl.store(here + FEATURES * VALUE, kv_minus)
    sums = at + 2 * FEATURES * VALUE + features
    tl.store(sums, plus, mask=first & (features >= 0))
    tl.store(sums + FEATURES, minus, mask=first & (features >= 0))
