"""Gradients by the keys, their map and the values; the formulas stand in `backward`."""

from typing import no_type_check

import triton
import triton.language as tl

from mimicry.attention.triton.backward import normalised_features, normalised_queries, store_map_gradient
from mimicry.attention.triton.features import (
    accumulate,
    head_pointer,
    key_features,
    load_map,
    load_shift,
    load_state,
    load_tile,
    product,
    project,
    store_state,
    store_tile,
    visible_keys,
)


@triton.jit
@no_type_check
def query_states(
    q, q_strides, dy, dy_strides, weight, bias, shift, normalisers, products, states, queries, segment,
    HEADS: tl.constexpr, MAP_HEADS: tl.constexpr, WIDTH: tl.constexpr, FEATURES: tl.constexpr, VALUE: tl.constexpr,
    TILE: tl.constexpr, CHUNK: tl.constexpr, INPUT: tl.constexpr, OPERAND: tl.constexpr,
):  # fmt: skip
    """Sum of p dy^T and of (dy . y) p over one segment. Grid: heads of all examples, segments, tiles of dy."""
    head, part, tile = tl.program_id(0), tl.program_id(1), tl.program_id(2)
    columns, rows = tile * TILE + tl.arange(0, TILE), tl.arange(0, CHUNK)
    w, b = load_map(weight, bias, head % HEADS % MAP_HEADS, WIDTH, FEATURES, INPUT)
    shift_plus, shift_minus = load_shift(shift, head, FEATURES)
    q, dy = head_pointer(q, q_strides, head, HEADS), head_pointer(dy, dy_strides, head, HEADS)
    normalisers += tl.cast(head, tl.int64) * queries
    products += tl.cast(head, tl.int64) * queries
    qd_plus, qd_minus, q_plus, q_minus = load_state(None, head, columns, FEATURES, VALUE, TILE)
    for start in range(part * segment, min(part * segment + segment, queries), CHUNK):
        u, largest, inverse, _, along = normalised_queries(
            q, q_strides[2], normalisers, products, start, queries, w, b, shift_plus, shift_minus, WIDTH, CHUNK, INPUT
        )
        incoming = load_tile(dy, dy_strides[2], start, columns, start + rows < queries, CHUNK)
        p = normalised_features(u, shift_plus, largest, inverse, 1)
        qd_plus = accumulate(qd_plus, tl.trans(p), incoming, OPERAND)
        q_plus += tl.sum(p * along[:, None], axis=0)
        p = normalised_features(u, shift_minus, largest, inverse, -1)
        qd_minus = accumulate(qd_minus, tl.trans(p), incoming, OPERAND)
        q_minus += tl.sum(p * along[:, None], axis=0)
    index = head * tl.num_programs(1) + part
    store_state(states, index, columns, qd_plus, qd_minus, q_plus, q_minus, tile == 0, FEATURES, VALUE)


@triton.jit
@no_type_check
def key_gradients(
    q, q_strides, k, k_strides, v, v_strides, dy, dy_strides, dk, dk_strides, dv, dv_strides, dw, db,
    q_weight, q_bias, k_weight, k_bias, shift, key_mask, states, normalisers, products, queries, tokens, segment,
    HEADS: tl.constexpr, MAP_HEADS: tl.constexpr, WIDTH: tl.constexpr, FEATURES: tl.constexpr, VALUE: tl.constexpr,
    TILE: tl.constexpr, CHUNK: tl.constexpr, INPUT: tl.constexpr, OPERAND: tl.constexpr, CAUSAL: tl.constexpr,
):  # fmt: skip
    """The dk and dv of one segment, and its shares of the key map's gradients; causal programs walk backwards."""
    head, part, tile = tl.program_id(0), tl.program_id(1), tl.program_id(2)
    width, columns = tl.arange(0, WIDTH), tile * TILE + tl.arange(0, TILE)
    rows = tl.arange(0, CHUNK)
    map_head = head % HEADS % MAP_HEADS
    k_w, k_b = load_map(k_weight, k_bias, map_head, WIDTH, FEATURES, INPUT)
    shift_plus, shift_minus = load_shift(shift, head, FEATURES)
    k, v = head_pointer(k, k_strides, head, HEADS), head_pointer(v, v_strides, head, HEADS)
    dk = head_pointer(dk, dk_strides, head, HEADS) + tile * dk_strides[3]
    dv = head_pointer(dv, dv_strides, head, HEADS)
    once = tl.where(tile == 0, 1.0, 0.0)
    index = head
    if CAUSAL:
        index = head * tl.num_programs(1) + part
        q_w, q_b = load_map(q_weight, q_bias, map_head, WIDTH, FEATURES, INPUT)
        q, dy = head_pointer(q, q_strides, head, HEADS), head_pointer(dy, dy_strides, head, HEADS)
        normalisers += tl.cast(head, tl.int64) * queries
        products += tl.cast(head, tl.int64) * queries
    qd_plus, qd_minus, q_plus, q_minus = load_state(states, index, columns, FEATURES, VALUE, TILE)
    weight = tl.zeros((FEATURES, WIDTH), tl.float32)
    bias = tl.zeros((FEATURES,), tl.float32)
    chunks = tl.cdiv(min(segment, tokens - part * segment), CHUNK)
    for step in range(0, chunks):
        start = part * segment + (chunks - 1 - step) * CHUNK
        visible = visible_keys(key_mask, head // HEADS, start, tokens, CHUNK)
        x = load_tile(k, k_strides[2], start, width, visible, CHUNK)
        values = load_tile(v, v_strides[2], start, columns, visible, CHUNK)
        u = project(x, k_w, k_b, INPUT)
        if CAUSAL:
            q_u, largest, inverse, _, along = normalised_queries(
                q, q_strides[2], normalisers, products, start, queries, q_w, q_b, shift_plus, shift_minus,
                WIDTH, CHUNK, INPUT,
            )  # fmt: skip
            incoming = load_tile(dy, dy_strides[2], start, columns, start + rows < queries, CHUNK)
            # One row per key, here and below, so that no product has to be transposed.
            later = rows[:, None] <= rows[None, :]
            t = product(values, tl.trans(incoming), OPERAND) - once * along[None, :]
            # Rounded here and not by every product: half the registers from here on.
            t = tl.where(later, t, 0.0).to(OPERAND)
        phi = key_features(u, shift_plus, visible, 1)
        dvalues = product(phi, qd_plus, OPERAND)
        dphi = product(values, tl.trans(qd_plus), OPERAND) - once * q_plus[None, :]
        if CAUSAL:
            p = normalised_features(q_u, shift_plus, largest, inverse, 1)
            q_plus += tl.sum(p * along[:, None], axis=0)
            p = p.to(OPERAND)
            weights = product(phi, tl.trans(p), OPERAND)
            dphi = accumulate(dphi, t, p, OPERAND)
            qd_plus = accumulate(qd_plus, tl.trans(p), incoming, OPERAND)
        du = phi * dphi
        phi = key_features(u, shift_minus, visible, -1)
        dvalues = accumulate(dvalues, phi, qd_minus, OPERAND)
        dphi = product(values, tl.trans(qd_minus), OPERAND) - once * q_minus[None, :]
        if CAUSAL:
            p = normalised_features(q_u, shift_minus, largest, inverse, -1)
            q_minus += tl.sum(p * along[:, None], axis=0)
            p = p.to(OPERAND)
            weights = accumulate(weights, phi, tl.trans(p), OPERAND)
            dphi = accumulate(dphi, t, p, OPERAND)
            qd_minus = accumulate(qd_minus, tl.trans(p), incoming, OPERAND)
            dvalues = accumulate(dvalues, tl.where(later, weights, 0.0), incoming, OPERAND)
        du -= phi * dphi
        present = start + rows < tokens
        store_tile(dv, dv_strides[2], start, columns, present, dvalues, CHUNK)
        store_tile(dk, dk_strides[2], start, width, present, product(du, tl.trans(k_w), OPERAND), CHUNK)
        weight = accumulate(weight, tl.trans(du), x, OPERAND)
        bias += tl.sum(du, axis=0)
    share = (head * tl.num_programs(1) + part) * tl.num_programs(2) + tile
    store_map_gradient(dw, db, share, weight, bias, WIDTH, FEATURES)
