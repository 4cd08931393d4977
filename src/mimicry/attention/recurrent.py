"""Causal linear attention with an explicit state: prompts in pieces of any length, then one token after another."""

from dataclasses import replace

import torch

from mimicry.attention.feature_maps.base import FeatureMap, LogFeatureMap
from mimicry.attention.features import (
    PLAIN_RANGE,
    BlockFeatures,
    finite,
    first_exponents,
    is_exponential,
    largest_exponents,
    needs_shift,
    one_shift_serves,
)
from mimicry.attention.state import LinearState
from mimicry.attention.streaming import batches
from mimicry.attention.streaming_blocks import inverse_of
from mimicry.attention.streaming_causal import sweep
from mimicry.shapes import KeyMask, Keys, Outputs, PerFeature, Queries, Values


def initial_state(key_map: FeatureMap, v: Values) -> LinearState:
    """The state before any token, for values like `v`."""
    batch, heads, _, width = v.shape
    dtype, f = torch.promote_types(v.dtype, torch.float32), key_map.feature_dim
    kv = v.new_zeros(batch, heads, f, width, dtype=dtype)
    shift = kv.new_full((batch, heads, 1, f), -torch.inf if isinstance(key_map, LogFeatureMap) else 0.0)
    return LinearState(kv, kv.new_zeros(batch, heads, f), shift, tokens=0)


@torch.no_grad()
def resume(
    query_map: FeatureMap,
    key_map: FeatureMap,
    eps: float,
    q: Queries,
    k: Keys,
    v: Values,
    state: LinearState | None,
    key_mask: KeyMask | None,
) -> tuple[Outputs, LinearState]:
    """See `LinearAttention.resume`."""
    if q.shape[2] != k.shape[2]:
        raise ValueError(f"q must have as many tokens as k ({k.shape[2]}) to resume, got {q.shape[2]}")
    before = initial_state(key_map, v) if state is None else state
    _check(before, initial_state(key_map, v), key_map, k.shape[2])
    with torch.autocast(q.device.type, enabled=False):
        if k.shape[2] == 0:
            return v.new_empty(v.shape), before
        if k.shape[2] == 1:
            return _step(query_map, key_map, eps, q, k, v, before, key_mask)
        shift, plain = before.shift, True
        if is_exponential(query_map, key_map):
            assert isinstance(key_map, LogFeatureMap)
            settled = before.shift.isneginf() | (before.shift.abs() <= PLAIN_RANGE)
            plain = bool(settled.all()) and not needs_shift(query_map, key_map, q, k)
            if plain:
                shift = torch.zeros_like(before.shift)
            else:
                shift = torch.maximum(before.shift, largest_exponents(key_map, k, key_mask, before.tokens))
                first = first_exponents(key_map, k, key_mask, before.tokens)
                if not one_shift_serves(shift, torch.where(before.shift.isneginf(), first, before.shift)):
                    # Exponents grow too much for one shift; halves have less to span, single tokens nothing.
                    middle = k.shape[2] // 2
                    parts = []
                    for half in (slice(None, middle), slice(middle, None)):
                        mask = None if key_mask is None else key_mask[:, half]
                        part, before = resume(
                            query_map, key_map, eps, q[:, :, half], k[:, :, half], v[:, :, half], before, mask
                        )
                        parts.append(part)
                    return torch.cat(parts, dim=2), before
        return _sweep(query_map, key_map, eps, q, k, v, _rescaled(before, shift), key_mask, plain)


def _sweep(
    query_map: FeatureMap,
    key_map: FeatureMap,
    eps: float,
    q: Queries,
    k: Keys,
    v: Values,
    state: LinearState,
    key_mask: KeyMask | None,
    plain: bool,
) -> tuple[Outputs, LinearState]:
    """Many tokens under the shift of `state`, which is 0 if `plain`."""
    features = BlockFeatures(query_map, key_map, None if plain else state.shift, state.kv.dtype)
    out, inverse = v.new_empty(v.shape), state.k.new_empty(q.shape[:3])
    kv, total = torch.empty_like(state.kv), torch.empty_like(state.k)
    for rows, block in batches(q.shape, q.shape[2], key_map.feature_dim):
        mask = None if key_mask is None else key_mask[rows]
        carried = (state.kv[rows], state.k[rows])
        some = (q[rows], k[rows], v[rows], mask, eps, block, out[rows], inverse[rows], carried, False, state.tokens)
        _, (kv[rows], total[rows]) = sweep(features.rows(rows), *some)
    # Where no key was visible there is nothing to keep in scale, and the next key sets the shift.
    unseen = is_exponential(query_map, key_map) & (total == 0)[:, :, None]
    return out, LinearState(kv, total, state.shift.masked_fill(unseen, -torch.inf), state.tokens + k.shape[2])


def _step(
    query_map: FeatureMap,
    key_map: FeatureMap,
    eps: float,
    q: Queries,
    k: Keys,
    v: Values,
    state: LinearState,
    key_mask: KeyMask | None,
) -> tuple[Outputs, LinearState]:
    """One token."""
    dtype = state.kv.dtype
    x_q, x_k = q.to(dtype), k.to(dtype)
    if isinstance(key_map, LogFeatureMap) and isinstance(query_map, LogFeatureMap):
        log_k = key_map.log_features(x_k, state.tokens)
        if key_mask is not None:
            log_k = log_k.masked_fill(~key_mask[:, None, :, None], -torch.inf)
        # Exponents may pass the shift by PLAIN_RANGE before it follows: most tokens leave the state's scale alone.
        larger = log_k > state.shift + PLAIN_RANGE
        if bool(larger.any()):
            state = _rescaled(state, torch.where(larger, log_k, state.shift))
        shift = finite(state.shift)
        log_q = query_map.log_features(x_q, state.tokens) + shift
        phi_q, phi_k = (log_q - log_q.amax(dim=-1, keepdim=True)).exp_(), (log_k - shift).exp_()
    else:
        phi_q, phi_k = query_map(x_q, state.tokens), key_map(x_k, state.tokens)
        if key_mask is not None:
            phi_k = phi_k.masked_fill(~key_mask[:, None, :, None], 0.0)
    kv = torch.addcmul(state.kv, phi_k.mT, v.to(dtype))
    total = state.k + phi_k[:, :, 0]
    inverse = inverse_of((phi_q[:, :, 0] * total).sum(dim=-1), eps)
    out = (phi_q @ kv).mul_(inverse[..., None, None]).to(v.dtype)
    return out, LinearState(kv, total, state.shift, state.tokens + 1)


def _rescaled(state: LinearState, shift: PerFeature) -> LinearState:
    """The same state under another shift."""
    factor = (state.shift - finite(shift)).exp()[:, :, 0]
    return replace(state, kv=state.kv * factor[..., None], k=state.k * factor, shift=shift)


def _check(state: LinearState, fitting: LinearState, key_map: FeatureMap, tokens: int) -> None:
    for name in ("kv", "k", "shift"):
        mine, expected = getattr(state, name), getattr(fitting, name)
        if (mine.shape, mine.dtype, mine.device) != (expected.shape, expected.dtype, expected.device):
            raise ValueError(
                f"state.{name} must be {tuple(expected.shape)} {expected.dtype} on {expected.device} for this layer "
                f"and batch, got {tuple(mine.shape)} {mine.dtype} on {mine.device}"
            )
    if key_map.max_length is not None and state.tokens + tokens > key_map.max_length:
        raise ValueError(f"tokens must be <= max_length = {key_map.max_length}, got {state.tokens} + {tokens}")
