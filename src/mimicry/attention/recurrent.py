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
from mimicry.attention.inputs import Maps, Tokens
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
    maps: Maps, tokens: Tokens, state: LinearState | None, overwrite: bool, fused: bool = False
) -> tuple[Outputs, LinearState]:
    """See `LinearAttention.resume`; `fused` runs a single token in one Triton kernel."""
    q, k, v, key_mask = tokens
    key_map = maps.key
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

        linear = linear_map(maps.query), linear_map(maps.key)
        return step(q, k, v, state, *linear, key_mask=key_mask, eps=maps.eps, overwrite=overwrite)
    # Entering the context costs as much as a product of a single token, so only where there is something to switch off.
    autocast = torch.is_autocast_enabled(q.device.type)
    with torch.autocast(q.device.type, enabled=False) if autocast else nullcontext():
        if k.shape[2] == 1:
            return _step(maps, tokens, state, overwrite)
        return _many(maps, tokens, state)


def _many(maps: Maps, tokens: Tokens, state: LinearState) -> tuple[Outputs, LinearState]:
    """Several tokens, under one shift or in halves that have one each."""
    q, k, v, key_mask = tokens
    if state.shift is None and serves(maps, tokens):
        kv, total = state.kv.clone(), state.k.clone()
        # Exponents that the kernels find too large get a shift below.
        with suppress(OutOfRangeError):
            out, _ = Kernels(maps, tokens).causal(kv, total)
            return out, LinearState(kv, total, None, state.tokens + k.shape[2])
    if state.shift is not None or needs_shift(maps, q, k):
        assert isinstance(maps.key, LogFeatureMap)
        state = state.with_shift()
        assert state.shift is not None
        shift = torch.maximum(state.shift, largest_exponents(maps.key, k, key_mask, state.tokens))
        first = first_exponents(maps.key, k, key_mask, state.tokens)
        if not one_shift_serves(shift, torch.where(state.shift.isneginf(), first, state.shift)):
            # Exponents grow too much for one shift; halves have less to span, single tokens nothing.
            middle, parts = k.shape[2] // 2, []
            for half in (slice(None, middle), slice(middle, None)):
                part, state = resume(maps, tokens.part(half), state, overwrite=False)
                parts.append(part)
            return torch.cat(parts, dim=2), state
        state = _rescaled(state, shift)
    features = BlockFeatures(maps, state.shift, state.kv.dtype)
    out, inverse = v.new_empty(v.shape), state.k.new_empty(q.shape[:3])
    kv, total = torch.empty_like(state.kv), torch.empty_like(state.k)
    for rows, block in batches(q.shape, q.shape[2], maps.key.feature_dim):
        some, carried = (tokens.rows(rows), block, out[rows], inverse[rows]), (state.kv[rows], state.k[rows])
        _, (kv[rows], total[rows]) = sweep(features.rows(rows), *some, carried, False, state.tokens)
    return out, LinearState(kv, total, state.shift, state.tokens + k.shape[2])


def _step(maps: Maps, token: Tokens, state: LinearState, overwrite: bool) -> tuple[Outputs, LinearState]:
    """One token; the calls cost more than what they compute, so there are as few as can be."""
    q, k, v, key_mask = token
    dtype = v.dtype
    if dtype != state.kv.dtype:
        q, k, v = (x.to(state.kv.dtype) for x in (q, k, v))
    # Fresh memory for a state costs more than the sums. A state of inference mode takes no writes outside of it.
    overwrite = overwrite and (torch.is_inference_mode_enabled() or not state.kv.is_inference())
    if decoding.is_available(maps, state):
        done = decoding.step(maps, Tokens(q, k, v, key_mask), state, overwrite)
        if done is not None:
            return done[0].to(dtype), done[1]
    plain = state.shift is None
    if plain:
        phi = maps.query.of_token(maps.key, q, k, state.tokens)
        phi_q, phi_k = phi.unbind()
        plain = not is_exponential(maps) or _in_range(phi)
    if not plain:
        phi_q, phi_k, state = _shifted_token(maps, q, k, state, key_mask)
    if key_mask is not None:
        phi_k = phi_k.masked_fill(~key_mask[:, None, :, None], 0.0)
    if overwrite:
        kv, total = state.kv.addcmul_(phi_k.mT, v), state.k.add_(phi_k[:, :, 0])
    else:
        kv, total = torch.addcmul(state.kv, phi_k.mT, v), state.k + phi_k[:, :, 0]
    rows = phi_q.flatten(0, 1)
    denominator = torch.bmm(rows, total.flatten(0, 1)[..., None]).clamp_(min=maps.eps)
    out = torch.bmm(rows, kv.flatten(0, 1)).div_(denominator)
    return out.view(v.shape).to(dtype), LinearState(kv, total, state.shift, state.tokens + 1)


def _shifted_token(
    maps: Maps, q: Queries, k: Keys, state: LinearState, key_mask: KeyMask | None
) -> tuple[QueryFeatures, KeyFeatures, LinearState]:
    """Features of one token under the state's shift, and the state under a shift that this key may have raised."""
    query_map, key_map, _ = maps
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
