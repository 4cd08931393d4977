"""An encoder classifier around any attention: one sequence, or two to compare."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal, get_args

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mimicry.attention import Attention
from mimicry.models.flops import weight_flops
from mimicry.models.output import ModelOutput, cross_entropy
from mimicry.models.sizes import TransformerSizes, check_at_least
from mimicry.models.trunk import Trunk, linear
from mimicry.shapes import ClassIds, Hidden, KeyMask, PairIds, Pooled, TokenIds

Pooling = Literal["mean", "cls"]


@dataclass(frozen=True)
class EncoderSizes(TransformerSizes):
    """Sizes of an `Encoder`.

    Args: as of `TransformerSizes`, and
        pooling: "mean" averages the states of all tokens that are not padding, "cls" takes that of a token of its own
            in front of the sequence.
    """

    pooling: Pooling = "mean"

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.pooling not in get_args(Pooling):
            raise ValueError(f"pooling must be one of {', '.join(get_args(Pooling))}, got {self.pooling!r}")


class Encoder(nn.Module):
    """Classes from pooled states p: W' relu(W p), and with two towers W' relu(W [p_a; p_b; p_a * p_b; p_a - p_b]).

    Source: the models of the PyTorch configurations of Long Range Arena (arXiv 2102.03902, Sec. 5.3). Both towers are
    the same trunk.

    Args:
        sizes: of the blocks, and how states are pooled.
        vocab_size: token ids are below it, >= 1.
        max_length: of one sequence in tokens, >= 1; the class token is not counted.
        num_labels: classes, >= 2.
        attention: builds one attention per layer from `dims`.
        towers: sequences of one example, 1 or 2.

    Raises:
        ValueError: if a size is out of range, or the attention cannot honour sequences of max_length.
    """

    def __init__(
        self,
        sizes: EncoderSizes,
        vocab_size: int,
        max_length: int,
        num_labels: int,
        attention: Callable[..., Attention],
        towers: int = 1,
    ) -> None:
        super().__init__()
        check_at_least("num_labels", num_labels, 2)
        if towers not in (1, 2):
            raise ValueError(f"towers must be 1 or 2, got {towers}")
        self.towers = towers
        # The class token is one more id, and takes one more position.
        self.class_token = vocab_size if sizes.pooling == "cls" else None
        extra = int(self.class_token is not None)
        self.trunk = Trunk(sizes, vocab_size + extra, max_length + extra, attention, causal=False)
        joined = sizes.hidden_size if towers == 1 else 4 * sizes.hidden_size
        self.head_in = linear(joined, sizes.mlp_size, sizes.init_std)
        self.head_out = linear(sizes.mlp_size, num_labels, sizes.init_std)

    def forward(
        self,
        input_ids: TokenIds,
        attention_mask: Tensor | None = None,
        pair_input_ids: PairIds | None = None,
        pair_attention_mask: Tensor | None = None,
        labels: ClassIds | None = None,
    ) -> ModelOutput:
        """Logits of the classes, and their loss.

        Args:
            input_ids: the sequence, or the first of two.
            attention_mask: bool, or 0 and 1: whether a token is not padding; None when none is.
            pair_input_ids: the second of two sequences, of a length of its own.
            pair_attention_mask: its mask.
            labels: class of each example.

        Raises:
            ValueError: if there are not as many sequences as towers, or they are longer than max_length.
        """
        given = 1 if pair_input_ids is None else 2
        if given != self.towers:
            raise ValueError(f"input_ids must be of {self.towers} sequences with towers = {self.towers}, got {given}")
        pooled = self._pooled(input_ids, attention_mask)
        if pair_input_ids is not None:
            other = self._pooled(pair_input_ids, pair_attention_mask)
            pooled = torch.cat([pooled, other, pooled * other, pooled - other], dim=-1)
        logits = self.head_out(self.head_in(pooled).relu())
        return ModelOutput(None if labels is None else cross_entropy(logits, labels), logits)

    def training_flops(self, tokens: int) -> int:
        """Floating-point operations of a forward and backward pass over one example, each sequence of `tokens`."""
        read = tokens if self.class_token is None else tokens + 1
        return self.towers * self.trunk.training_flops(read) + weight_flops(self.head_in, self.head_out)

    def _pooled(self, input_ids: TokenIds, attention_mask: Tensor | None) -> Pooled:
        """One vector per sequence."""
        key_mask = None if attention_mask is None else attention_mask.bool()
        if self.class_token is None:
            return mean_of_tokens(self.trunk(input_ids, key_mask), key_mask)
        input_ids = F.pad(input_ids, (1, 0), value=self.class_token)
        key_mask = None if key_mask is None else F.pad(key_mask, (1, 0), value=True)
        return self.trunk(input_ids, key_mask)[:, 0]


def mean_of_tokens(x: Hidden, key_mask: KeyMask | None) -> Pooled:
    """Mean over the tokens that are not padding; 0 where all are."""
    if key_mask is None:
        return x.mean(dim=1)
    return (x * key_mask[..., None]).sum(dim=1) / key_mask.sum(dim=1, keepdim=True).clamp(min=1)
