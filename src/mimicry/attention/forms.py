"""The O(n) forms of linear attention over whole sequences, and what keeps each of them exact."""

from contextlib import suppress

import torch

from mimicry.attention.backend import Form, announce
from mimicry.attention.causal import causal_log_outputs, causal_outputs
from mimicry.attention.cpu.autograd import compiled_attention
from mimicry.attention.cpu.hedgehog import OutOfRangeError, serves
from mimicry.attention.feature_maps.base import LogFeatureMap
from mimicry.attention.features import (
    BlockFeatures,
    first_exponents,
    largest_exponents,
    layer_features,
    needs_shift,
    one_shift_serves,
)
from mimicry.attention.inputs import Maps, Tokens
from mimicry.attention.streaming import streaming_attention
from mimicry.shapes import Outputs, PerFeature


def attend(form: Form, maps: Maps, tokens: Tokens, causal: bool) -> Outputs:
    """Attention outputs in the dtype of `v`, by the form asked for.

    Exponents are taken as they are where that is safe, and shifted where it is not. Causal attention that no single
    shift serves, or that continues after earlier keys, is computed chunk by chunk under autograd whatever the form;
    that is said once.
    """
    q, k, _, key_mask = tokens
    name, shift = type(maps.query).__name__, None
    if causal and q.shape[2] != k.shape[2]:
        announce("%s: queries that follow earlier keys run chunk by chunk", name)
        return _chunk_by_chunk(maps, tokens)
    if form == "chunked" and serves(maps, tokens):
        announce("%s: kernels compiled for this CPU", name)
        # Those whose exponents they find too large go on below.
        with suppress(OutOfRangeError):
            return compiled_attention(maps, tokens, causal)
    if needs_shift(maps, q, k):
        assert isinstance(maps.key, LogFeatureMap)
        shift = largest_exponents(maps.key, k, key_mask)
        if causal and not one_shift_serves(shift, first_exponents(maps.key, k, key_mask)):
            announce("%s: keys grow by more than e^60 along the sequence; chunk by chunk", name)
            return _chunk_by_chunk(maps, tokens)
    if form == "triton":
        return _triton(maps, tokens, causal, shift)
    features = BlockFeatures(maps, shift, torch.promote_types(q.dtype, torch.float32))
    if form == "fla":
        return _fla(features, tokens)
    return streaming_attention(features, tokens, causal)


def _chunk_by_chunk(maps: Maps, tokens: Tokens) -> Outputs:
    """Causal outputs for any growth of exponents and any number of earlier keys."""
    q, k, v, key_mask = tokens
    phi_q, phi_k, logarithmic = layer_features(maps, q, k, key_mask, causal=True)
    run = causal_log_outputs if logarithmic else causal_outputs
    return run(phi_q, phi_k, v.to(phi_k.dtype), maps.eps).to(v.dtype)


def _triton(maps: Maps, tokens: Tokens, causal: bool, shift: PerFeature | None) -> Outputs:
    # Imported here: Triton is optional, and reads its environment when it loads.
    from mimicry.attention.triton.fused import hedgehog_attention, linear_map

    q, k, v, key_mask = tokens
    linear = linear_map(maps.query), linear_map(maps.key)
    return hedgehog_attention(q, k, v, *linear, causal=causal, key_mask=key_mask, key_shift=shift, eps=maps.eps)


def _fla(features: BlockFeatures, tokens: Tokens) -> Outputs:
    """Causal attention by flash-linear-attention's chunk kernel, over features formed here.

    Its own normaliser adds 1e-10, which is not small beside exp(-60): ours is used.
    """
    from fla.ops.linear_attn import chunk_linear_attn

    q, k, v, key_mask = tokens
    phi_q, phi_k = features.all_queries(q), features.all_keys(k, key_mask)
    by_token = [x.to(v.dtype).transpose(1, 2) for x in (phi_q, phi_k, v)]
    numerator = chunk_linear_attn(*by_token, scale=1.0, normalize=False)[0].transpose(1, 2)
    denominator = (phi_q * phi_k.cumsum(dim=2)).sum(dim=-1, keepdim=True)
    return (numerator / denominator.clamp(min=features.maps.eps)).to(v.dtype)
