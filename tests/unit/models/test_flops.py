"""Operations counted by hand."""

import pytest

from mimicry.attention import Attention, AttentionDims
from mimicry.attention.shipped import load_variant
from mimicry.models import Decoder, DecoderSizes, Encoder, EncoderSizes
from mimicry.models.flops import attention_flops

# Weights and biases of one block of width 16 with an MLP of 32.
BLOCK = 48 * 17 + 16 * 17 + 32 * 17 + 16 * 33 + 4 * 16


def layer(attn: str, causal: bool = True) -> Attention:
    return load_variant(attn)(dims=AttentionDims(2, 8, causal))


@pytest.mark.parametrize(
    ("attn", "causal", "keys"),
    [
        ("softmax", True, 100),
        ("softmax", False, 100),
        ("hedgehog", True, 16),
        ("elu", False, 8),
        ("sliding_window", True, 17),
        ("sliding_window", False, 32),
        ("window_hedgehog", True, 33),
    ],
)
def test_attention_multiplies_each_token_with_its_keys_or_features(attn: str, causal: bool, keys: int) -> None:
    # Two products of 2 operations per unit of width, and twice that again in the backward pass.
    assert attention_flops(layer(attn, causal), 100) == 100 * 16 * keys * 2 * 2 * 3


def test_no_attention_needs_more_than_softmax() -> None:
    assert attention_flops(layer("hedgehog"), 5) == attention_flops(layer("softmax"), 5)


def test_a_decoder_s_output_counts_and_its_embeddings_do_not() -> None:
    model = Decoder(DecoderSizes(2, 16, 2, 32, "learnt"), 11, 24, load_variant("hedgehog"))
    maps = 2 * 2 * 2 * (8 * 8 + 8)
    weights = 2 * BLOCK + maps + 11 * 16
    assert model.training_flops(20) == 20 * 6 * weights + 2 * attention_flops(layer("hedgehog"), 20)


@pytest.mark.parametrize("towers", [1, 2])
def test_an_encoder_s_head_counts_once_an_example(towers: int) -> None:
    model = Encoder(EncoderSizes(2, 16, 2, 32, pooling="cls"), 11, 24, 3, load_variant("softmax"), towers)
    head = (16 if towers == 1 else 64) * 32 + 32 + 32 * 3 + 3
    trunk = 21 * 6 * 2 * BLOCK + 2 * attention_flops(layer("softmax"), 21)
    assert model.training_flops(20) == towers * trunk + 6 * head
