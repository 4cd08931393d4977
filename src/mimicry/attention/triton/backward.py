"""Backward kernels. Features and scores are formed anew; only outputs, normalisers and segment states are kept.

With p = phi(q) / D, weights a_ij = p_i . phi(k_j) and t_ij = dy_i . v_j - dy_i . y_i:

    dL/dphi(q_i) = (sum_j t_ij phi(k_j)) / D_i        dL/dphi(k_j) = sum_i t_ij p_i        dv_j = sum_i a_ij dy_i

Each sum is a masked product inside a chunk plus a product with a state: for queries the forward state over the keys
before, for keys the state sum p_i dy_i^T, sum (dy_i . y_i) p_i over the queries after. Through exp,
du = phi_plus dphi_plus - phi_minus dphi_minus; then dx = W^T du, dW = sum du x^T, db = sum du. Shifts are constants.
"""

from typing import no_type_check

import triton
import triton.language as tl

from mimicry.attention.triton.features import head_pointer, largest_exponents, load_tile, project, query_features


@triton.jit
@no_type_check
def row_products(
    dy, dy_strides, y, y_strides, normalisers, products, queries, eps,
    HEADS: tl.constexpr, VALUE: tl.constexpr, CHUNK: tl.constexpr,
):  # fmt: skip
    """dy_i . y_i; 0 where the normaliser is at its floor, and so constant. Grid: heads, chunks."""
    head, start = tl.program_id(0), tl.program_id(1) * CHUNK
    columns, rows = tl.arange(0, VALUE), start + tl.arange(0, CHUNK)
    present = rows < queries
    dy, y = head_pointer(dy, dy_strides, head, HEADS), head_pointer(y, y_strides, head, HEADS)
    incoming = load_tile(dy, dy_strides[2], start, columns, present, CHUNK).to(tl.float32)
    result = load_tile(y, y_strides[2], start, columns, present, CHUNK).to(tl.float32)
    at = tl.cast(head, tl.int64) * queries + rows
    free = tl.load(normalisers + at, mask=present, other=0.0) > eps
    tl.store(products + at, tl.where(free, tl.sum(incoming * result, axis=1), 0.0), mask=present)


@triton.jit
@no_type_check
def normalised_queries(
    q, stride, normalisers, products, start, queries, w, b, shift_plus, shift_minus,
    WIDTH: tl.constexpr, CHUNK: tl.constexpr, INPUT: tl.constexpr,
):  # fmt: skip
    """What p of one chunk is made from: u, largest exponents and 1 / D; then its tile of q, and dy . y."""
    rows = start + tl.arange(0, CHUNK)
    present = rows < queries
    x = load_tile(q, stride, start, tl.arange(0, WIDTH), present, CHUNK)
    u = project(x, w, b, INPUT)
    # Past the last query p is 0.
    inverse = 1.0 / tl.load(normalisers + rows, mask=present, other=float("inf"))
    largest = largest_exponents(u, shift_plus, shift_minus)
    return u, largest, inverse, x, tl.load(products + rows, mask=present, other=0.0)


@triton.jit
@no_type_check
def normalised_features(u, shift, largest, inverse, SIGN: tl.constexpr):
    """One half of p."""
    return query_features(u, shift, largest, SIGN) * inverse[:, None]


@triton.jit
@no_type_check
def store_map_gradient(dw, db, index, weight, bias, WIDTH: tl.constexpr, FEATURES: tl.constexpr):
    """One program's share of dW and db."""
    features = tl.arange(0, FEATURES)
    at = dw + tl.cast(index, tl.int64) * FEATURES * WIDTH + features[:, None] * WIDTH + tl.arange(0, WIDTH)[None, :]
    tl.store(at, weight)
    tl.store(db + tl.cast(index, tl.int64) * FEATURES + features, bias)
