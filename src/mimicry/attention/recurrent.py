"""Causal linear attention with an explicit state: prompts in pieces of any length, then one token after another."""

import math
from contextlib import nullcontext, suppress
from dataclasses import replace

import torch

from mimicry.attention.cpu import decoding
from mimicry.attention.cpu.hedgehog import Kernels, OutOfRangeError, serves
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
from mimicry.attention.prompt import initial_state
from mimicry.attention.state import LinearState
from mimicry.attention.streaming import batches
from mimicry.attention.streaming_causal import sweep
from mimicry.shapes import (
    KeyFeatures,
    KeyMask,
    Keys,
    Outputs,
    PerFeature,
    Queries,
    QueryFeatures,
    TokenFeatures,
    Values,
)


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
    overwrite: bool,
    fused: bool = False,
) -> tuple[Outputs, LinearState]:
    """See `LinearAttention.resume`; `fused` runs a single token in one Triton kernel."""
    if q.shape[2] != k.shape[2]:
        raise ValueError(f"q must have as many tokens as k ({k.shape[2]}) to resume, got {q.shape[2]}")
    if state is None:
        state = initial_state(key_map, v)
    else:
        _check(state, key_map, v)
    if key_map.max_length is not None and state.tokens + k.shape[2] > key_map.max_length:
        raise ValueError(f"tokens must be <= max_length = {key_map.max_length}, got {state.tokens} + {k.shape[2]}")
    if k.shape[2] == 0:
        return v.new_empty(v.shape), state
    if fused:
        # Imported here: Triton is optional, and reads its environment when it loads.
        from mimicry.attention.triton.decoding import step
        from mimicry.attention.triton.fused import linear_map

        maps = linear_map(query_map), linear_map(key_map)
        return step(q, k, v, state, *maps, key_mask=key_mask, eps=eps, overwrite=overwrite)
    # Entering the context costs as much as a product of a single token, so only where there is something to switch off.
    autocast = torch.is_autocast_enabled(q.device.type)
    with torch.autocast(q.device.type, enabled=False) if autocast else nullcontext():
        if k.shape[2] == 1:
            return _step(query_map, key_map, eps, q, k, v, state, key_mask, overwrite)
        return _many(query_map, key_map, eps, q, k, v, state, key_mask)


def _many(
    query_map: FeatureMap,
    key_map: FeatureMap,
    eps: float,
    q: Queries,
    k: Keys,
    v: Values,
    state: LinearState,
    key_mask: KeyMask | None,
) -> tuple[Outputs, LinearState]:
    """Several tokens, under one shift or in halves that have one each."""
    if state.shift is None and serves(query_map, key_map, q, v):
        kv, total = state.kv.clone(), state.k.clone()
        # Exponents that the kernels find too large get a shift below.
        with suppress(OutOfRangeError):
            out, _ = Kernels(query_map, key_map, q, k, v, key_mask, eps).causal(kv, total)
            return out, LinearState(kv, total, None, state.tokens + k.shape[2])
    if state.shift is not None or needs_shift(query_map, key_map, q, k):
        assert isinstance(key_map, LogFeatureMap)
        state = state.with_shift()
        assert state.shift is not None
        shift = torch.maximum(state.shift, largest_exponents(key_map, k, key_mask, state.tokens))
        first = first_exponents(key_map, k, key_mask, state.tokens)
        if not one_shift_serves(shift, torch.where(state.shift.isneginf(), first, state.shift)):
            # Exponents grow too much for one shift; halves have less to span, single tokens nothing.
            middle, parts = k.shape[2] // 2, []
            for half in (slice(None, middle), slice(middle, None)):
                mask = None if key_mask is None else key_mask[:, half]
                some = (q[:, :, half], k[:, :, half], v[:, :, half], state, mask)
                part, state = resume(query_map, key_map, eps, *some, overwrite=False)
                parts.append(part)
            return torch.cat(parts, dim=2), state
        state = _rescaled(state, shift)
    features = BlockFeatures(query_map, key_map, state.shift, state.kv.dtype)
    out, inverse = v.new_empty(v.shape), state.k.new_empty(q.shape[:3])
    kv, total = torch.empty_like(state.kv), torch.empty_like(state.k)
    for rows, block in batches(q.shape, q.shape[2], key_map.feature_dim):
        mask = None if key_mask is None else key_mask[rows]
        carried = (state.kv[rows], state.k[rows])
        some_rows = (q[rows], k[rows], v[rows], mask, eps, block, out[rows], inverse[rows], carried, False)
        _, (kv[rows], total[rows]) = sweep(features.rows(rows), *some_rows, state.tokens)
    return out, LinearState(kv, total, state.shift, state.tokens + k.shape[2])


def _step(
    query_map: FeatureMap,
    key_map: FeatureMap,
    eps: float,
    q: Queries,
    k: Keys,
    v: Values,
    state: LinearState,
    key_mask: KeyMask | None,
    overwrite: bool,
) -> tuple[Outputs, LinearState]:
    """One token; the calls cost more than what they compute, so there are as few as can be."""
    x_q, x_k, x_v = (x if x.dtype == state.kv.dtype else x.to(state.kv.dtype) for x in (q, k, v))
    # Fresh memory for a state costs more than the sums. A state of inference mode takes no writes outside of it.
    overwrite = overwrite and (torch.is_inference_mode_enabled() or not state.kv.is_inference())
    if decoding.is_available(query_map, key_map, state):
        done = decoding.step(query_map, key_map, eps, x_q, x_k, x_v, state, key_mask, overwrite)
        if done is not None:
            return done[0].to(v.dtype), done[1]
    plain = state.shift is None
    if plain:
        phi = query_map.of_token(key_map, x_q, x_k, state.tokens)
        phi_q, phi_k = phi.unbind()
        plain = not is_exponential(query_map, key_map) or _in_range(phi)
    if not plain:
        phi_q, phi_k, state = _shifted_token(query_map, key_map, x_q, x_k, state, key_mask)
    if key_mask is not None:
        phi_k = phi_k.masked_fill(~key_mask[:, None, :, None], 0.0)
    if overwrite:
        kv, total = state.kv.addcmul_(phi_k.mT, x_v), state.k.add_(phi_k[:, :, 0])
    else:
        kv, total = torch.addcmul(state.kv, phi_k.mT, x_v), state.k + phi_k[:, :, 0]
    rows = phi_q.flatten(0, 1)
    denominator = torch.bmm(rows, total.flatten(0, 1)[..., None]).clamp_(min=eps)
    out = torch.bmm(rows, kv.flatten(0, 1)).div_(denominator)
    out = out.view(v.shape)
    return out if out.dtype == v.dtype else out.to(v.dtype), LinearState(kv, total, state.shift, state.tokens + 1)


def _shifted_token(
    query_map: FeatureMap, key_map: FeatureMap, q: Queries, k: Keys, state: LinearState, key_mask: KeyMask | None
) -> tuple[QueryFeatures, KeyFeatures, LinearState]:
    """Features of one token under the state's shift, and the state under a shift that this key may have raised."""
    assert isinstance(query_map, LogFeatureMap)
    assert isinstance(key_map, LogFeatureMap)
    state = state.with_shift()
    assert state.shift is not None
    log_k = key_map.log_features(k, state.tokens)
    if key_mask is not None:
        log_k = log_k.masked_fill(~key_mask[:, None, :, None], -torch.inf)
    # Exponents may pass the shift by PLAIN_RANGE before it follows: most tokens leave the state's scale alone.
    larger = log_k > state.shift + PLAIN_RANGE
    if bool(larger.any()):
        state = _rescaled(state, torch.where(larger, log_k, state.shift))
    assert state.shift is not None
    shift = finite(state.shift)
    log_q = query_map.log_features(q, state.tokens) + shift
    return (log_q - log_q.amax(dim=-1, keepdim=True)).exp_(), (log_k - shift).exp_(), state


def _in_range(phi: TokenFeatures) -> bool:
    """Whether no |log phi| exceeds PLAIN_RANGE; False for NaN."""
    least, most = (extreme.item() for extreme in phi.aminmax())
    return least >= math.exp(-PLAIN_RANGE) and most <= math.exp(PLAIN_RANGE)


def _rescaled(state: LinearState, shift: PerFeature) -> LinearState:
    """The same state under another shift."""
    assert state.shift is not None
    factor = (state.shift - finite(shift)).exp()[:, :, 0]
    return replace(state, kv=state.kv * factor[..., None], k=state.k * factor, shift=shift)


def _check(state: LinearState, key_map: FeatureMap, v: Values) -> None:
    batch, heads, _, width = v.shape
    f, dtype = key_map.feature_dim, torch.promote_types(v.dtype, torch.float32)
    shapes = {"kv": (batch, heads, f, width), "k": (batch, heads, f), "shift": (batch, heads, 1, f)}
    for name, shape in shapes.items():
        mine = getattr(state, name)
        if mine is not None and (mine.shape != shape or mine.dtype != dtype or mine.device != v.device):
            raise ValueError(
                f"state.{name} must be {shape} {dtype} on {v.device} for this layer and batch, "
                f"got {tuple(mine.shape)} {mine.dtype} on {mine.device}"
            )
    if state.shift is not None and not isinstance(key_map, LogFeatureMap):
        raise ValueError(f"state.shift must be None for {type(key_map).__name__}, whose features are no exponentials")
