"""The state after the first tokens of a text, without their outputs: those are `forward`'s, by its fastest form."""

from contextlib import suppress

import torch

from mimicry.attention.cpu.hedgehog import Kernels, OutOfRangeError, serves
from mimicry.attention.feature_maps.base import FeatureMap, LogFeatureMap
from mimicry.attention.features import PLAIN_RANGE, finite, largest_exponents
from mimicry.attention.inputs import Maps, Tokens
from mimicry.attention.state import LinearState
from mimicry.shapes import KeyMask, Keys, Values

# Tokens per block, so that features never take more memory than a block's.
BLOCK = 1024


def initial_state(key_map: FeatureMap, v: Values) -> LinearState:
    """The state before any token, for values like `v`."""
    batch, heads, _, width = v.shape
    dtype = torch.promote_types(v.dtype, torch.float32)
    kv = v.new_zeros(batch, heads, key_map.feature_dim, width, dtype=dtype)
    return LinearState(kv, kv.new_zeros(kv.shape[:3]), None, tokens=0)


@torch.no_grad()
def absorb(key_map: FeatureMap, k: Keys, v: Values, key_mask: KeyMask | None, fused: bool = False) -> LinearState:
    """See `LinearAttention.absorb`; `fused` runs one Triton kernel."""
    state = initial_state(key_map, v)
    kv, total, shift = state.kv, state.k, None
    # There are no queries; keys stand in their place.
    maps, tokens = Maps(key_map, key_map, 0.0), Tokens(k, k, v, key_mask)
    if not fused and serves(maps, tokens):
        with suppress(OutOfRangeError):
            return LinearState(*Kernels(maps, tokens).sum_keys(), None, k.shape[2])
    with torch.autocast(k.device.type, enabled=False):
        # No query is known, so the keys alone decide; `resume` gives a state its shift when queries need one.
        if isinstance(key_map, LogFeatureMap) and k.numel() and not bool(key_map.log_bound(k) <= PLAIN_RANGE):
            shift = largest_exponents(key_map, k, key_mask)
        if fused:
            # Imported here: Triton is optional, and reads its environment when it loads.
            from mimicry.attention.triton.decoding import prompt_state
            from mimicry.attention.triton.fused import linear_map

            return prompt_state(k, v, linear_map(key_map), key_mask=key_mask, key_shift=shift)
        for first in range(0, k.shape[2], BLOCK):
            at = slice(first, first + BLOCK)
            x = k[:, :, at].to(kv.dtype)
            if shift is None:
                phi = key_map(x, first)
            else:
                assert isinstance(key_map, LogFeatureMap)
                phi = (key_map.log_features(x, first) - finite(shift)).exp_()
            if key_mask is not None:
                phi = phi.masked_fill(~key_mask[:, None, at, None], 0.0)
            kv = kv + phi.mT @ v[:, :, at].to(kv.dtype)
            total = total + phi.sum(dim=2)
    return LinearState(kv, total, shift, tokens=k.shape[2])
