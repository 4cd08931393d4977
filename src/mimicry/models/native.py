"""What `conf/model` says about models that start from random weights."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import ClassVar

from mimicry.attention import Attention
from mimicry.models.compiling import compile_model
from mimicry.models.decoder import Decoder, DecoderSizes
from mimicry.models.encoder import Encoder, EncoderSizes
from mimicry.models.sizes import check_at_least


@dataclass(frozen=True)
class NativeDecoder:
    """A causal decoder for tasks that bring tokens of their own, such as recall, built around the run's attention.

    Args:
        name: short, for folders and tables.
        sizes: of its blocks; vocabulary and length come with the task.
        compile: whether the model runs through torch.compile, but for attention that it cannot trace.
    """

    name: str
    sizes: DecoderSizes
    compile: bool = False

    kind: ClassVar[str] = "native"
    modality: ClassVar[str] = "tokens"

    def build(
        self, vocab_size: int, max_length: int, num_labels: int, towers: int, attention: Callable[..., Attention]
    ) -> Decoder:
        """The model with new weights, from torch's global generator; it has neither labels nor towers."""
        model = Decoder(self.sizes, vocab_size, max_length, attention)
        if self.compile:
            compile_model(model)
        return model


@dataclass(frozen=True)
class NativeLanguageModel:
    """A causal decoder for texts, built around the run's attention.

    Args:
        name: short, for folders and tables.
        sizes: of its blocks.
        tokenizer: `trained` (byte-level BPE, on the task's training texts), a local folder, or a hub id.
        vocab_size: rows of the embedding, at least as many as the tokenizer has tokens.
        max_length: of the blocks it reads, in tokens, >= 8.
        compile: whether the model runs through torch.compile, but for attention that it cannot trace.

    Raises:
        ValueError: if a size is out of range.
    """

    name: str
    sizes: DecoderSizes
    tokenizer: str
    vocab_size: int
    max_length: int
    compile: bool = False

    kind: ClassVar[str] = "native"
    modality: ClassVar[str] = "language"

    def __post_init__(self) -> None:
        check_at_least("model.vocab_size", self.vocab_size, 2)
        check_at_least("model.max_length", self.max_length, 8)

    def build(self, attention: Callable[..., Attention]) -> Decoder:
        """The model with new weights, from torch's global generator."""
        model = Decoder(self.sizes, self.vocab_size, self.max_length, attention)
        if self.compile:
            compile_model(model)
        return model


@dataclass(frozen=True)
class NativeEncoder:
    """An encoder that classifies sequences of symbols, built around the run's attention.

    Args:
        name: short, for folders and tables.
        sizes: of its blocks, and how states are pooled; vocabulary, length and classes come with the task.
        compile: whether the model runs through torch.compile, but for attention that it cannot trace.
    """

    name: str
    sizes: EncoderSizes
    compile: bool = False

    kind: ClassVar[str] = "native"
    modality: ClassVar[str] = "sequence"

    def build(
        self, vocab_size: int, max_length: int, num_labels: int, towers: int, attention: Callable[..., Attention]
    ) -> Encoder:
        """The model with new weights, from torch's global generator."""
        model = Encoder(self.sizes, vocab_size, max_length, num_labels, attention, towers)
        if self.compile:
            compile_model(model)
        return model
