"""Forward kernels: the state of each segment, the states before each segment, and the outputs.

A segment is the run of chunks that one program walks through, so that long sequences with few heads fill the chip.
"""

from typing import no_type_check

import triton
import triton.language as tl

from mimicry.attention.triton.features import (
    accumulate,
    head_pointer,
    key_features,
    largest_exponents,
    load_map,
    load_shift,
    load_state,
    load_tile,
    product,
    project,
    query_features,
    store_state,
    store_tile,
    visible_keys,
)


@triton.jit
@no_type_check
def key_states(
    k, k_strides, v, v_strides, weight, bias, shift, key_mask, states, tokens, segment,
    HEADS: tl.constexpr, MAP_HEADS: tl.constexpr, WIDTH: tl.constexpr, FEATURES: tl.constexpr, VALUE: tl.constexpr,
    TILE: tl.constexpr, CHUNK: tl.constexpr, INPUT: tl.constexpr, OPERAND: tl.constexpr,
):  # fmt: skip
    """Sum of phi(k) v^T and of phi(k) over one segment. Grid: heads of all examples, segments, tiles of v."""
    head, part, tile = tl.program_id(0), tl.program_id(1), tl.program_id(2)
    width, columns = tl.arange(0, WIDTH), tile * TILE + tl.arange(0, TILE)
    w, b = load_map(weight, bias, head % HEADS % MAP_HEADS, WIDTH, FEATURES, INPUT)
    shift_plus, shift_minus = load_shift(shift, head, FEATURES)
    k, v = head_pointer(k, k_strides, head, HEADS), head_pointer(v, v_strides, head, HEADS)
    kv_plus, kv_minus, k_plus, k_minus = load_state(None, head, columns, FEATURES, VALUE, TILE)
    for start in range(part * segment, min(part * segment + segment, tokens), CHUNK):
        visible = visible_keys(key_mask, head // HEADS, start, tokens, CHUNK)
        keys = load_tile(k, k_strides[2], start, width, visible, CHUNK)
        values = load_tile(v, v_strides[2], start, columns, visible, CHUNK)
        u = project(keys, w, b, INPUT)
        phi = key_features(u, shift_plus, visible, 1)
        kv_plus = accumulate(kv_plus, tl.trans(phi), values, OPERAND)
        k_plus += tl.sum(phi, axis=0)
        phi = key_features(u, shift_minus, visible, -1)
        kv_minus = accumulate(kv_minus, tl.trans(phi), values, OPERAND)
        k_minus += tl.sum(phi, axis=0)
    index = head * tl.num_programs(1) + part
    store_state(states, index, columns, kv_plus, kv_minus, k_plus, k_minus, tile == 0, FEATURES, VALUE)


@triton.jit
@no_type_check
def scan_states(states, segments, SIZE: tl.constexpr, BLOCK: tl.constexpr, REVERSE: tl.constexpr):
    """Replaces each segment's state by the sum of those before it, or after it. Grid: heads, blocks of the state."""
    offsets = tl.program_id(1) * BLOCK + tl.arange(0, BLOCK)
    inside = offsets < SIZE
    first = states + tl.program_id(0).to(tl.int64) * segments * SIZE + offsets
    total = tl.zeros((BLOCK,), tl.float32)
    for step in range(0, segments):
        if REVERSE:
            here = first + tl.cast(segments - 1 - step, tl.int64) * SIZE
        else:
            here = first + tl.cast(step, tl.int64) * SIZE
        own = tl.load(here, mask=inside, other=0.0)
        tl.store(here, total, mask=inside)
        total += own


@triton.jit
@no_type_check
def outputs(
    q, q_strides, k, k_strides, v, v_strides, y, y_strides, normalisers,
    q_weight, q_bias, k_weight, k_bias, shift, key_mask, states, queries, tokens, segment, eps,
    HEADS: tl.constexpr, MAP_HEADS: tl.constexpr, WIDTH: tl.constexpr, FEATURES: tl.constexpr, VALUE: tl.constexpr,
    TILE: tl.constexpr, CHUNK: tl.constexpr, INPUT: tl.constexpr, OPERAND: tl.constexpr, CAUSAL: tl.constexpr,
):  # fmt: skip
    """Outputs and normalisers of one segment of queries. Grid as for `key_states`.

    Causal programs start from the state before their segment and carry it along; the others read one for all keys.
    """
    head, part, tile = tl.program_id(0), tl.program_id(1), tl.program_id(2)
    width, columns = tl.arange(0, WIDTH), tile * TILE + tl.arange(0, TILE)
    rows = tl.arange(0, CHUNK)
    map_head = head % HEADS % MAP_HEADS
    q_w, q_b = load_map(q_weight, q_bias, map_head, WIDTH, FEATURES, INPUT)
    shift_plus, shift_minus = load_shift(shift, head, FEATURES)
    q, y = head_pointer(q, q_strides, head, HEADS), head_pointer(y, y_strides, head, HEADS)
    normalisers += tl.cast(head, tl.int64) * queries
    index = head
    if CAUSAL:
        index = head * tl.num_programs(1) + part
        k_w, k_b = load_map(k_weight, k_bias, map_head, WIDTH, FEATURES, INPUT)
        k, v = head_pointer(k, k_strides, head, HEADS), head_pointer(v, v_strides, head, HEADS)
    kv_plus, kv_minus, k_plus, k_minus = load_state(states, index, columns, FEATURES, VALUE, TILE)
    for start in range(part * segment, min(part * segment + segment, queries), CHUNK):
        present = start + rows < queries
        x = load_tile(q, q_strides[2], start, width, present, CHUNK)
        u = project(x, q_w, q_b, INPUT)
        largest = largest_exponents(u, shift_plus, shift_minus)
        q_plus, q_minus = query_features(u, shift_plus, largest, 1), query_features(u, shift_minus, largest, -1)
        denominator = tl.sum(q_plus * k_plus[None, :] + q_minus * k_minus[None, :], axis=1)
        # Rounded here and not by every product: half the registers from here on.
        q_plus, q_minus = q_plus.to(OPERAND), q_minus.to(OPERAND)
        numerator = accumulate(product(q_plus, kv_plus, OPERAND), q_minus, kv_minus, OPERAND)
        if CAUSAL:
            visible = visible_keys(key_mask, head // HEADS, start, tokens, CHUNK)
            x = load_tile(k, k_strides[2], start, width, visible, CHUNK)
            values = load_tile(v, v_strides[2], start, columns, visible, CHUNK)
            u = project(x, k_w, k_b, INPUT)
            phi = key_features(u, shift_plus, visible, 1)
            k_plus += tl.sum(phi, axis=0)
            phi = phi.to(OPERAND)
            scores = product(q_plus, tl.trans(phi), OPERAND)
            kv_plus = accumulate(kv_plus, tl.trans(phi), values, OPERAND)
            phi = key_features(u, shift_minus, visible, -1)
            k_minus += tl.sum(phi, axis=0)
            phi = phi.to(OPERAND)
            scores = accumulate(scores, q_minus, tl.trans(phi), OPERAND)
            kv_minus = accumulate(kv_minus, tl.trans(phi), values, OPERAND)
            scores = tl.where(rows[:, None] >= rows[None, :], scores, 0.0)
            numerator = accumulate(numerator, scores, values, OPERAND)
            denominator += tl.sum(scores, axis=1)
        denominator = tl.maximum(denominator, eps)
        store_tile(y, y_strides[2], start, columns, present, numerator / denominator[:, None], CHUNK)
        tl.store(normalisers + start + rows, denominator, mask=present & (tile == 0))
