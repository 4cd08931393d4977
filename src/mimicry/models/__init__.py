"""Models to train from scratch, built around an attention factory: a causal decoder and an encoder classifier."""

from mimicry.models.decoder import Decoder, DecoderSizes
from mimicry.models.encoder import Encoder, EncoderSizes
from mimicry.models.output import ModelOutput

__all__ = ["Decoder", "DecoderSizes", "Encoder", "EncoderSizes", "ModelOutput"]
