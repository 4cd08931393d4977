"""A causal decoder around any attention: for recall and for language modelling."""

from collections.abc import Callable
from dataclasses import dataclass

import torch.nn.functional as F
from torch import Tensor, nn

from mimicry.attention import Attention
from mimicry.models.flops import weight_flops
from mimicry.models.output import IGNORED, ModelOutput, cross_entropy
from mimicry.models.sizes import TransformerSizes, check_at_least
from mimicry.models.trunk import Trunk
from mimicry.shapes import Labels, TokenIds


@dataclass(frozen=True)
class DecoderSizes(TransformerSizes):
    """Sizes of a `Decoder`.

    Args: as of `TransformerSizes`, and
        conv_size: tokens that a causal convolution in front of each attention reaches over, >= 1; 1 means none. Linear
            attention sees the token before only as well as its features tell all positions apart; 3 spares it that.

    Raises:
        ValueError: if a value is out of its range.
    """

    conv_size: int = 1

    def __post_init__(self) -> None:
        super().__post_init__()
        check_at_least("conv_size", self.conv_size, 1)


class Decoder(nn.Module):
    """p(token t+1 | tokens 1..t) = softmax(E x_t), E the embedding of the inputs. Source: GPT-2.

    Deviation: rotary positions unless `sizes.positions` is "learnt", a short convolution if `sizes.conv_size` asks for
    one, and no dropout of attention weights.

    Args:
        sizes: of the blocks.
        vocab_size: token ids are below it, >= 1.
        max_length: of sequences in tokens, >= 1.
        attention: builds one attention per layer from `dims`.

    Raises:
        ValueError: if a size is out of range, or the attention cannot honour sequences of max_length.
    """

    def __init__(
        self, sizes: DecoderSizes, vocab_size: int, max_length: int, attention: Callable[..., Attention]
    ) -> None:
        super().__init__()
        self.trunk = Trunk(sizes, vocab_size, max_length, attention, causal=True, conv_size=sizes.conv_size)

    def forward(
        self, input_ids: TokenIds, attention_mask: Tensor | None = None, labels: Labels | None = None
    ) -> ModelOutput:
        """Logits of the token after each one, and their loss.

        Args:
            input_ids: tokens; a batch of unequal lengths is padded at its end with any id.
            attention_mask: bool, or 0 and 1: whether a token is not padding. Padding at the end needs no mask, since
                causality hides it, and attention is faster without one. From padding in front no mask shields a
                convolution.
            labels: at each position the token that belongs there, usually `input_ids` themselves, and -100 where
                nothing is scored; they are compared with the logits of the position before.

        Returns:
            Loss: the mean over scored positions, NaN if there are none; None without labels.

        Raises:
            ValueError: if the sequence is longer than max_length.
        """
        key_mask = None if attention_mask is None else attention_mask.bool()
        logits = F.linear(self.trunk(input_ids, key_mask), self.trunk.tokens.weight)
        if labels is None:
            return ModelOutput(None, logits)
        # Labels are moved, not logits: those would have to be copied.
        return ModelOutput(cross_entropy(logits, F.pad(labels[:, 1:], (0, 1), value=IGNORED)), logits)

    def training_flops(self, tokens: int) -> int:
        """Floating-point operations of a forward and backward pass over one sequence of `tokens`."""
        return self.trunk.training_flops(tokens) + tokens * weight_flops(self.trunk.tokens)
