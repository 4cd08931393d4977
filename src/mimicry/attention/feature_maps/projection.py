"""The learnt projection W x + b in front of trainable feature maps."""

import torch
from torch import Tensor, nn

from mimicry.attention.base import AttentionDims
from mimicry.shapes import Features, HeadStates


class HeadProjection(nn.Module):
    """W_h x + b_h with one square matrix per head.

    Args:
        dims: sizes of the attention layer.
        bias: add b, initialised to zero.
        identity_init: start at W = I (the paper's Hedgehog); otherwise like torch.nn.Linear, U(+-1/sqrt(d)).
        per_head: one W per head (the paper); False shares one W between all heads of the layer (an ablation).
        scale_inputs: feed x / d^(1/4), so that q and k together carry softmax's 1/sqrt(d). The paper leaves open
            which it used; without scaling W absorbs the temperature.
    """

    def __init__(
        self, dims: AttentionDims, bias: bool, identity_init: bool, per_head: bool, scale_inputs: bool
    ) -> None:
        super().__init__()
        heads, width = (dims.num_heads if per_head else 1), dims.head_dim
        if identity_init:
            weight = torch.eye(width).expand(heads, width, width).clone()
        else:
            weight = torch.empty(heads, width, width).uniform_(-(width**-0.5), width**-0.5)
        self.weight = nn.Parameter(weight)
        self.bias: Tensor | None = nn.Parameter(torch.zeros(heads, 1, width)) if bias else None
        self.input_scale = width**-0.25 if scale_inputs else 1.0

    def forward(self, x: HeadStates) -> Features:
        weight = self.weight.to(x.dtype).expand(x.shape[1], -1, -1)
        u = torch.einsum("bhnd,hfd->bhnf", x * self.input_scale, weight)
        return u if self.bias is None else u + self.bias.to(x.dtype)
