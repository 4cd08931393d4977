"""The O(n) forms of linear attention over whole sequences, and what keeps each of them exact."""

from contextlib import suppress

import torch

from mimicry.attention.backend import Form, announce
from mimicry.attention.causal import causal_log_outputs, causal_outputs
from mimicry.attention.cpu.autograd import compiled_attention
from mimicry.attention.cpu.hedgehog import OutOfRangeError, serves
from mimicry.attention.feature_maps.base import FeatureMap, LogFeatureMap
from mimicry.attention.features import (
    BlockFeatures,
    first_exponents,
    largest_exponents,
    layer_features,
    needs_shift,
    one_shift_serves,
)
from mimicry.attention.streaming import streaming_attention
from mimicry.shapes import KeyMask, Keys, Outputs, PerFeature, Queries, Values


def attend(
    form: Form,
    query_map: FeatureMap,
    key_map: FeatureMap,
    q: Queries,
    k: Keys,
    v: Values,
    key_mask: KeyMask | None,
    causal: bool,
    eps: float,
) -> Outputs:
    """Attention outputs in the dtype of `v`, by the form asked for.

    Exponents are taken as they are where that is safe, and shifted where it is not. Causal attention that no single
    shift serves, or that continues after earlier keys, is computed chunk by chunk under autograd whatever the form;
    that is said once.
    """
    shift = None
    if causal and q.shape[2] != k.shape[2]:
        announce("%s: queries that follow earlier keys run chunk by chunk", type(query_map).__name__)
        return _chunk_by_chunk(query_map, key_map, q, k, v, key_mask, eps)
    if form == "chunked" and serves(query_map, key_map, q, v):
        announce("%s: kernels compiled for this CPU", type(query_map).__name__)
        # Those whose exponents they find too large go on below.
        with suppress(OutOfRangeError):
            return compiled_attention(query_map, key_map, q, k, v, key_mask, causal, eps)
    if needs_shift(query_map, key_map, q, k):
        assert isinstance(key_map, LogFeatureMap)
        shift = largest_exponents(key_map, k, key_mask)
        if causal and not one_shift_serves(shift, first_exponents(key_map, k, key_mask)):
            announce("%s: keys grow by more than e^60 along the sequence; chunk by chunk", type(query_map).__name__)
            return _chunk_by_chunk(query_map, key_map, q, k, v, key_mask, eps)
    if form == "triton":
        return _triton(query_map, key_map, q, k, v, key_mask, causal, eps, shift)
    features = BlockFeatures(query_map, key_map, shift, torch.promote_types(q.dtype, torch.float32))
    if form == "fla":
        return _fla(features, q, k, v, key_mask, eps)
    return streaming_attention(features, q, k, v, key_mask, causal, eps)


def _chunk_by_chunk(
    query_map: FeatureMap, key_map: FeatureMap, q: Queries, k: Keys, v: Values, key_mask: KeyMask | None, eps: float
) -> Outputs:
    """Causal outputs for any growth of exponents and any number of earlier keys."""
    phi_q, phi_k, logarithmic = layer_features(query_map, key_map, q, k, key_mask, causal=True)
    run = causal_log_outputs if logarithmic else causal_outputs
    return run(phi_q, phi_k, v.to(phi_k.dtype), eps).to(v.dtype)


def _triton(
    query_map: FeatureMap,
    key_map: FeatureMap,
    q: Queries,
    k: Keys,
    v: Values,
    key_mask: KeyMask | None,
    causal: bool,
    eps: float,
    shift: PerFeature | None,
) -> Outputs:
    # Imported here: Triton is optional, and reads its environment when it loads.
    from mimicry.attention.triton.fused import hedgehog_attention, linear_map

    maps = linear_map(query_map), linear_map(key_map)
    return hedgehog_attention(q, k, v, *maps, causal=causal, key_mask=key_mask, key_shift=shift, eps=eps)


def _fla(features: BlockFeatures, q: Queries, k: Keys, v: Values, key_mask: KeyMask | None, eps: float) -> Outputs:
    """Causal attention by flash-linear-attention's chunk kernel, over features formed here.

    Its own normaliser adds 1e-10, which is not small beside exp(-60): ours is used.
    """
    from fla.ops.linear_attn import chunk_linear_attn

    phi_q, phi_k = features.all_queries(q), features.all_keys(k, key_mask)
    by_token = [x.to(v.dtype).transpose(1, 2) for x in (phi_q, phi_k, v)]
    numerator = chunk_linear_attn(*by_token, scale=1.0, normalize=False)[0].transpose(1, 2)
    denominator = (phi_q * phi_k.cumsum(dim=2)).sum(dim=-1, keepdim=True)
    return (numerator / denominator.clamp(min=eps)).to(v.dtype)
