"""Chunked causal linear attention: masked products inside chunks of queries, a running state over all keys before.

Two forms: over features, and over log-features. The latter shifts every exponent by a maximum over visible keys only,
so that it is exact however large exponents grow and no later key changes an earlier output.
"""

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from mimicry.attention.features import COMMON_RANGE, finite
from mimicry.shapes import KeyFeatures, LogKeyFeatures, Outputs, PerFeature, QueryFeatures, RowScores, Values, Weights

# Tokens per chunk; inside, scores of all pairs are formed.
CHUNK = 64


def normalise(numerator: Outputs, denominator: RowScores, eps: float) -> Outputs:
    """Numerator / denominator, where a row without a visible key gives 0."""
    return numerator / denominator[..., None].clamp(min=eps)


def causal_outputs(phi_q: QueryFeatures, phi_k: KeyFeatures, v: Values, eps: float) -> Outputs:
    """Attention outputs from features; queries are the last positions of the keys."""
    past = phi_k.shape[2] - phi_q.shape[2]
    kv_state = torch.einsum("bhmf,bhme->bhfe", phi_k[:, :, :past], v[:, :, :past])
    k_state = phi_k[:, :, :past].sum(dim=2)
    outputs = [v[:, :, :0]]
    for rows, keys in _chunks(phi_q.shape[2], past):
        queries, new_k, new_v = phi_q[:, :, rows], phi_k[:, :, keys], v[:, :, keys]
        scores = torch.einsum("bhnf,bhmf->bhnm", queries, new_k).tril()
        numerator = scores @ new_v + torch.einsum("bhnf,bhfe->bhne", queries, kv_state)
        denominator = scores.sum(dim=-1) + torch.einsum("bhnf,bhf->bhn", queries, k_state)
        outputs.append(normalise(numerator, denominator, eps))
        kv_state = kv_state + torch.einsum("bhmf,bhme->bhfe", new_k, new_v)
        k_state = k_state + new_k.sum(dim=2)
    return torch.cat(outputs, dim=2)


def causal_log_outputs(log_q: QueryFeatures, log_k: LogKeyFeatures, v: Values, eps: float) -> Outputs:
    """Attention outputs from log-features; masked keys have -inf."""
    past = log_k.shape[2] - log_q.shape[2]
    shift = _running_max(log_k[:, :, :past], None)
    phi_past = (log_k[:, :, :past] - finite(shift)).exp()
    kv_state = torch.einsum("bhmf,bhme->bhfe", phi_past, v[:, :, :past])
    k_state = phi_past.sum(dim=2)
    outputs = [v[:, :, :0]]
    for rows, keys in _chunks(log_q.shape[2], past):
        new_v = v[:, :, keys]
        part = _chunk_scores(log_q[:, :, rows], log_k[:, :, keys], shift)
        numerator = part.scores @ new_v + torch.einsum("bhnf,bhfe->bhne", part.phi_q, kv_state)
        denominator = part.scores.sum(dim=-1) + torch.einsum("bhnf,bhf->bhn", part.phi_q, k_state)
        outputs.append(normalise(numerator, denominator, eps))
        grown = _running_max(log_k[:, :, keys], shift)
        fading = (shift - finite(grown)).exp().squeeze(2)
        phi_k = (log_k[:, :, keys] - finite(grown)).exp()
        kv_state = kv_state * fading[..., None] + torch.einsum("bhmf,bhme->bhfe", phi_k, new_v)
        k_state = k_state * fading + phi_k.sum(dim=2)
        shift = grown
    return torch.cat(outputs, dim=2)


def causal_log_scores(log_q: QueryFeatures, log_k: LogKeyFeatures) -> Weights:
    """Scores of all pairs from log-features, each row up to a factor of its own; future and masked keys are 0."""
    past = log_k.shape[2] - log_q.shape[2]
    blocks = [log_k.new_zeros(*log_k.shape[:2], 0, log_k.shape[2])]
    for rows, keys in _chunks(log_q.shape[2], past):
        before = log_k[:, :, : keys.start]
        shift = _running_max(before, None)
        part = _chunk_scores(log_q[:, :, rows], log_k[:, :, keys], shift)
        earlier = torch.einsum("bhnf,bhmf->bhnm", part.phi_q, (before - finite(shift)).exp())
        later = earlier.new_zeros(*earlier.shape[:3], log_k.shape[2] - keys.stop)
        blocks.append(torch.cat([earlier, part.scores, later], dim=-1))
    return torch.cat(blocks, dim=2)


@dataclass(frozen=True)
class _ChunkScores:
    """Scores inside a chunk, and query features for the state before it, all divided by exp(row shift)."""

    scores: Tensor
    phi_q: Tensor


def _chunk_scores(log_q: QueryFeatures, log_k: LogKeyFeatures, before: PerFeature) -> _ChunkScores:
    # Per row and feature, the largest exponent among the keys it may attend to.
    seen = torch.maximum(log_k.detach().cummax(dim=2).values, before)
    row = finite((log_q.detach() + seen).amax(dim=-1, keepdim=True))
    chunk = log_k.detach().amax(dim=2, keepdim=True)
    future = torch.ones(log_q.shape[2], log_k.shape[2], dtype=torch.bool, device=log_q.device).triu(1)
    # Where a row has seen nothing there is nothing to keep in range.
    ahead = (chunk - seen).masked_fill(seen.isneginf(), 0.0)
    if bool((ahead <= COMMON_RANGE).all()):
        common = finite(torch.maximum(chunk, before))
        keys = (log_k - common).exp()
        # A row that has seen nothing is hidden from every key; its exponents may be anything.
        queries = (log_q + common - row).masked_fill(seen.isneginf(), -torch.inf).exp()
        scores = torch.einsum("bhnf,bhmf->bhnm", queries, keys).masked_fill(future, 0.0)
    else:
        pairs = log_q[:, :, :, None] + log_k[:, :, None] - row[..., None]
        scores = pairs.masked_fill(future[..., None], -torch.inf).exp().sum(dim=-1)
    return _ChunkScores(scores, (log_q + before - row).exp())


def _running_max(log_k: LogKeyFeatures, before: PerFeature | None) -> PerFeature:
    """Largest exponent per feature, over these keys and those before; -inf where there is none. A constant."""
    batch, heads, _, features = log_k.shape
    start = log_k.new_full((batch, heads, 1, features), -torch.inf) if before is None else before
    return torch.cat([start, log_k.detach()], dim=2).amax(dim=2, keepdim=True)


def _chunks(rows: int, past: int) -> Iterator[tuple[slice, slice]]:
    """Slices of queries, and of the keys at the same positions."""
    for start in range(0, rows, CHUNK):
        stop = min(start + CHUNK, rows)
        yield slice(start, stop), slice(past + start, past + stop)
