"""What decoder and encoder share: embeddings, pre-norm blocks around any attention, and the last norm."""

from collections.abc import Callable

import torch.nn.functional as F
from torch import nn

from mimicry.attention import Attention, AttentionDims
from mimicry.attention.capture import attention_layers
from mimicry.models.convolution import ShortConvolution
from mimicry.models.flops import attention_flops, weight_flops
from mimicry.models.positions import RotaryPositions, rotate
from mimicry.models.sizes import TransformerSizes, check_at_least
from mimicry.shapes import Hidden, KeyMask, Rotation, TokenIds


class Block(nn.Module):
    """x + attention(norm(x)), then x + mlp(norm(x)). Source: GPT-2, and arXiv 2002.04745 for where the norms stand.

    The attention itself is passed in: see `Trunk`. With a `conv_size` above 1 a causal convolution stands before it.
    """

    def __init__(self, sizes: TransformerSizes, conv_size: int) -> None:
        super().__init__()
        self.num_heads = sizes.num_heads
        width, std = sizes.hidden_size, sizes.init_std
        # What is added to the residual stream starts smaller, so that its sum over all layers does not grow with them.
        residual_std = std * (2 * sizes.num_layers) ** -0.5
        self.attention_norm = nn.LayerNorm(width)
        self.convolution = ShortConvolution(width, conv_size) if conv_size > 1 else nn.Identity()
        self.qkv = linear(width, 3 * width, std)
        self.attention_out = linear(width, width, residual_std)
        self.mlp_norm = nn.LayerNorm(width)
        self.mlp_in = linear(width, sizes.mlp_size, std)
        self.mlp_out = linear(sizes.mlp_size, width, residual_std)
        self.dropout = nn.Dropout(sizes.dropout)

    def forward(self, x: Hidden, attention: Attention, rotation: Rotation | None, key_mask: KeyMask | None) -> Hidden:
        # (b, n, 3 h d) as three of (b, h, n, d).
        projected = self.qkv(self.convolution(self.attention_norm(x)))
        q, k, v = projected.unflatten(-1, (3, self.num_heads, -1)).permute(2, 0, 3, 1, 4)
        if rotation is not None:
            q, k = rotate(q, rotation), rotate(k, rotation)
        attended = attention(q, k, v, key_mask).transpose(1, 2).flatten(2)
        x = x + self.dropout(self.attention_out(attended))
        hidden = F.gelu(self.mlp_in(self.mlp_norm(x)), approximate="tanh")
        return x + self.dropout(self.mlp_out(hidden))


class Trunk(nn.Module):
    """From token ids to the states after the last norm.

    Args:
        sizes: of the blocks.
        vocab_size: token ids are below it, >= 1.
        max_length: of sequences in tokens, >= 1.
        attention: builds one attention per layer from `dims`.
        causal: whether tokens attend only to earlier ones and themselves.
        conv_size: of a causal convolution in front of each attention, in tokens; 1 means none.

    Raises:
        ValueError: if a size is out of range, or the attention cannot honour sequences of max_length.
    """

    def __init__(
        self,
        sizes: TransformerSizes,
        vocab_size: int,
        max_length: int,
        attention: Callable[..., Attention],
        causal: bool,
        conv_size: int = 1,
    ) -> None:
        super().__init__()
        check_at_least("vocab_size", vocab_size, 1)
        check_at_least("max_length", max_length, 1)
        self.max_length = max_length
        self.tokens = embedding(vocab_size, sizes)
        learnt = sizes.positions == "learnt"
        self.positions = embedding(max_length, sizes) if learnt else None
        self.rotary = None if learnt else RotaryPositions(sizes.head_dim, max_length)
        self.dropout = nn.Dropout(sizes.dropout)
        self.blocks = nn.ModuleList(Block(sizes, conv_size) for _ in range(sizes.num_layers))
        self.norm = nn.LayerNorm(sizes.hidden_size)
        # Built last and left as built: models of one seed then differ in nothing but their attention, whatever random
        # numbers it draws, and no initialisation of ours overwrites that of a learnt map.
        dims = AttentionDims(sizes.num_heads, sizes.head_dim, causal)
        attentions = [attention(dims=dims) for _ in range(sizes.num_layers)]
        limit = attentions[0].max_length
        if limit is not None and limit < max_length:
            raise ValueError(f"attn: its max_length must be >= the {max_length} tokens of a sequence, got {limit}")
        self.attentions = nn.ModuleList(attentions)

    def forward(self, input_ids: TokenIds, key_mask: KeyMask | None = None) -> Hidden:
        """States of all tokens.

        Args:
            input_ids: tokens.
            key_mask: True where a token may be attended to; None for all.

        Raises:
            ValueError: if the sequence is longer than max_length.
        """
        length = input_ids.shape[1]
        if length > self.max_length:
            raise ValueError(f"input_ids must have at most max_length = {self.max_length} tokens, got {length}")
        x = self.tokens(input_ids)
        if self.positions is not None:
            x = x + self.positions.weight[:length]
        x = self.dropout(x)
        rotation = None if self.rotary is None else self.rotary(length)
        for block, attention in zip(self.blocks, self.attentions, strict=True):
            x = block(x, attention, rotation, key_mask)
        return self.norm(x)

    def training_flops(self, tokens: int) -> int:
        """Floating-point operations of a forward and backward pass over one sequence; looking up embeddings is free."""
        products = sum(attention_flops(layer, tokens) for layer in attention_layers(self).values())
        return tokens * weight_flops(self.blocks, self.attentions) + products


def linear(inputs: int, outputs: int, std: float) -> nn.Linear:
    """A linear layer with normal weights and zero bias."""
    layer = nn.Linear(inputs, outputs)
    nn.init.normal_(layer.weight, std=std)
    nn.init.zeros_(layer.bias)
    return layer


def embedding(rows: int, sizes: TransformerSizes) -> nn.Embedding:
    """A table of normal vectors."""
    table = nn.Embedding(rows, sizes.hidden_size)
    nn.init.normal_(table.weight, std=sizes.init_std)
    return table
