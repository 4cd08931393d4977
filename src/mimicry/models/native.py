"""What `conf/model` says about models that start from random weights."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import ClassVar

from mimicry.attention import Attention
from mimicry.models.decoder import Decoder, DecoderSizes
from mimicry.models.encoder import Encoder, EncoderSizes


@dataclass(frozen=True)
class NativeDecoder:
    """A causal decoder for recall and language modelling, built around the run's attention.

    Args:
        name: short, for folders and tables.
        sizes: of its blocks; vocabulary and length come with the task.
    """

    name: str
    sizes: DecoderSizes

    kind: ClassVar[str] = "native"
    modality: ClassVar[str] = "language"

    def build(
        self, vocab_size: int, max_length: int, num_labels: int, towers: int, attention: Callable[..., Attention]
    ) -> Decoder:
        """The model with new weights, from torch's global generator; it has neither labels nor towers."""
        return Decoder(self.sizes, vocab_size, max_length, attention)


@dataclass(frozen=True)
class NativeEncoder:
    """An encoder that classifies sequences of symbols, built around the run's attention.

    Args:
        name: short, for folders and tables.
        sizes: of its blocks, and how states are pooled; vocabulary, length and classes come with the task.
    """

    name: str
    sizes: EncoderSizes

    kind: ClassVar[str] = "native"
    modality: ClassVar[str] = "sequence"

    def build(
        self, vocab_size: int, max_length: int, num_labels: int, towers: int, attention: Callable[..., Attention]
    ) -> Encoder:
        """The model with new weights, from torch's global generator."""
        return Encoder(self.sizes, vocab_size, max_length, num_labels, attention, towers)
