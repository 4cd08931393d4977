"""Gradients by the queries and their map; the formulas stand in `backward`."""

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
    store_tile,
    visible_keys,
)


@triton.jit
@no_type_check
def query_gradients(
    q, q_strides, k, k_strides, v, v_strides, dy, dy_strides, dq, dq_strides, dw, db,
    q_weight, q_bias, k_weight, k_bias, shift, key_mask, states, normalisers, products, queries, tokens, segment,
    HEADS: tl.constexpr, MAP_HEADS: tl.constexpr, WIDTH: tl.constexpr, FEATURES: tl.constexpr, VALUE: tl.constexpr,
    TILE: tl.constexpr, CHUNK: tl.constexpr, INPUT: tl.constexpr, OPERAND: tl.constexpr, CAUSAL: tl.constexpr,
):  # fmt: skip
    """The dq of one segment, and its shares of the gradients by the query map; dq in one share per tile of v."""
    head, part, tile = tl.program_id(0), tl.program_id(1), tl.program_id(2)
    width, columns = tl.arange(0, WIDTH), tile * TILE + tl.arange(0, TILE)
    rows = tl.arange(0, CHUNK)
    map_head = head % HEADS % MAP_HEADS
    q_w, q_b = load_map(q_weight, q_bias, map_head, WIDTH, FEATURES, INPUT)
    shift_plus, shift_minus = load_shift(shift, head, FEATURES)
    q, dy = head_pointer(q, q_strides, head, HEADS), head_pointer(dy, dy_strides, head, HEADS)
    dq = head_pointer(dq, dq_strides, head, HEADS) + tile * dq_strides[3]
    normalisers += tl.cast(head, tl.int64) * queries
    products += tl.cast(head, tl.int64) * queries
    # The normaliser's part of t is counted once, by the first tile.
    once = tl.where(tile == 0, 1.0, 0.0)
    index = head
    if CAUSAL:
        index = head * tl.num_programs(1) + part
        k_w, k_b = load_map(k_weight, k_bias, map_head, WIDTH, FEATURES, INPUT)
        k, v = head_pointer(k, k_strides, head, HEADS), head_pointer(v, v_strides, head, HEADS)
    kv_plus, kv_minus, k_plus, k_minus = load_state(states, index, columns, FEATURES, VALUE, TILE)
    weight = tl.zeros((FEATURES, WIDTH), tl.float32)
    bias = tl.zeros((FEATURES,), tl.float32)
    for start in range(part * segment, min(part * segment + segment, queries), CHUNK):
        present = start + rows < queries
        u, largest, inverse, x, along = normalised_queries(
            q, q_strides[2], normalisers, products, start, queries, q_w, q_b, shift_plus, shift_minus,
            WIDTH, CHUNK, INPUT,
        )  # fmt: skip
        along *= once
        incoming = load_tile(dy, dy_strides[2], start, columns, present, CHUNK)
        dphi = product(incoming, tl.trans(kv_plus), OPERAND) - along[:, None] * k_plus[None, :]
        if CAUSAL:
            visible = visible_keys(key_mask, head // HEADS, start, tokens, CHUNK)
            keys = load_tile(k, k_strides[2], start, width, visible, CHUNK)
            values = load_tile(v, v_strides[2], start, columns, visible, CHUNK)
            k_u = project(keys, k_w, k_b, INPUT)
            t = product(incoming, tl.trans(values), OPERAND) - along[:, None]
            # Rounded here and not by every product: half the registers from here on.
            t = tl.where(rows[:, None] >= rows[None, :], t, 0.0).to(OPERAND)
            phi = key_features(k_u, shift_plus, visible, 1)
            k_plus += tl.sum(phi, axis=0)
            phi = phi.to(OPERAND)
            dphi = accumulate(dphi, t, phi, OPERAND)
            kv_plus = accumulate(kv_plus, tl.trans(phi), values, OPERAND)
        du = normalised_features(u, shift_plus, largest, inverse, 1) * dphi
        dphi = product(incoming, tl.trans(kv_minus), OPERAND) - along[:, None] * k_minus[None, :]
        if CAUSAL:
            phi = key_features(k_u, shift_minus, visible, -1)
            k_minus += tl.sum(phi, axis=0)
            phi = phi.to(OPERAND)
            dphi = accumulate(dphi, t, phi, OPERAND)
            kv_minus = accumulate(kv_minus, tl.trans(phi), values, OPERAND)
        du -= normalised_features(u, shift_minus, largest, inverse, -1) * dphi
        store_tile(dq, dq_strides[2], start, width, present, product(du, tl.trans(q_w), OPERAND), CHUNK)
        weight = accumulate(weight, tl.trans(du), x, OPERAND)
        bias += tl.sum(du, axis=0)
    share = (head * tl.num_programs(1) + part) * tl.num_programs(2) + tile
    store_map_gradient(dw, db, share, weight, bias, WIDTH, FEATURES)
