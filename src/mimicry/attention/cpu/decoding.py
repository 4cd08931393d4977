"""One decoding step of Hedgehog attention on a CPU, in one call instead of twenty."""

import ctypes
import functools
from collections.abc import Callable
from typing import Any

import torch

from mimicry.attention.cpu.arguments import address, can_run, numbers, projections, rows
from mimicry.attention.cpu.compiled import library
from mimicry.attention.features import PLAIN_RANGE
from mimicry.attention.inputs import Maps, Tokens
from mimicry.attention.state import LinearState
from mimicry.shapes import Outputs

# Elements of a state for which a second thread is worth waking.
PER_THREAD = 32_768
POINTERS, SIZES, NUMBERS = 15, 6, 3
Strides = ctypes.c_ssize_t * 6


@functools.cache
def _function() -> Callable[..., int]:
    """`hedgehog_token` of decoding.c."""
    found = library()
    assert found is not None
    function: Any = found.hedgehog_token
    kinds: dict[Any, int] = {ctypes.c_void_p: POINTERS, ctypes.c_int: SIZES, ctypes.c_float: NUMBERS}
    function.argtypes = [kind for kind, many in kinds.items() for _ in range(many)] + [ctypes.c_int]
    function.restype = ctypes.c_int
    return function


def is_available(maps: Maps, state: LinearState) -> bool:
    """Whether `step` can run; a state under a shift is left to torch."""
    return state.shift is None and can_run(maps, state.kv)


def step(maps: Maps, token: Tokens, state: LinearState, overwrite: bool) -> tuple[Outputs, LinearState] | None:
    """Output of one token and the state after it, where `is_available` says so; inputs in float32.

    Returns:
        None, with nothing written, if some |W x + b| is too large for plain exponentials, or not a number.
    """
    of_query, of_key = projections(maps)
    (query_weight, query_bias), (key_weight, key_bias) = numbers(of_query), numbers(of_key)
    q, k, v, key_mask = rows(token.q), rows(token.k), rows(token.v), token.key_mask
    batch, heads, _, width = q.shape
    kv, sums = state.kv.contiguous(), state.k.contiguous()
    next_kv, next_sums = (kv, sums) if overwrite else (torch.empty_like(kv), torch.empty_like(sums))
    count, value_width = query_weight.shape[1], v.shape[3]
    y = q.new_empty(batch, heads, 1, value_width)
    phi = q.new_empty(batch, heads, 4 * count)
    # Booleans are bytes.
    mask = None if key_mask is None else key_mask.contiguous()
    beyond = _function()(
        q.data_ptr(), k.data_ptr(), v.data_ptr(), Strides(*q.stride()[:2], *k.stride()[:2], *v.stride()[:2]),
        query_weight.data_ptr(), address(query_bias), key_weight.data_ptr(), address(key_bias), address(mask),
        kv.data_ptr(), sums.data_ptr(), next_kv.data_ptr(), next_sums.data_ptr(), y.data_ptr(), phi.data_ptr(),
        batch, heads, query_weight.shape[0] == 1, width, value_width, count, of_query.input_scale, maps.eps,
        PLAIN_RANGE, min(torch.get_num_threads(), 1 + kv.numel() // PER_THREAD),
    )  # fmt: skip
    return None if beyond else (y, LinearState(next_kv, next_sums, None, state.tokens + 1))
