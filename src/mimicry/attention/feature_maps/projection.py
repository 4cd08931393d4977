"""The learnt projection W x + b in front of trainable feature maps."""

import torch
from torch import Tensor, nn

from mimicry.attention.base import AttentionDims
from mimicry.shapes import Features, HeadMatrix, HeadStates


class HeadProjection(nn.Module):
    """W_h x + b_h with one matrix per head.

    Args:
        dims: sizes of the attention layer.
        bias: add b, initialised to zero.
        identity_init: start at W = I (the paper's Hedgehog), further rows at random orthogonal matrices; otherwise
            like torch.nn.Linear, U(+-1/sqrt(d)).
        per_head: one W per head (the paper); False shares one W between all heads of the layer (an ablation).
        scale_inputs: feed x / d^(1/4), so that q and k together carry softmax's 1/sqrt(d). The paper leaves open
            which it used; without scaling W absorbs the temperature.
        num_features: rows of W, >= 1; None takes d, as the paper does. More of them tell more keys apart, which heads
            narrower than BERT's need.

    Attributes:
        num_features: as built.

    Raises:
        ValueError: if num_features is below 1.
    """

    def __init__(
        self,
        dims: AttentionDims,
        bias: bool,
        identity_init: bool,
        per_head: bool,
        scale_inputs: bool,
        num_features: int | None = None,
    ) -> None:
        super().__init__()
        heads, width = (dims.num_heads if per_head else 1), dims.head_dim
        self.num_features = width if num_features is None else num_features
        if self.num_features < 1:
            raise ValueError(f"num_features must be >= 1 or null, got {num_features}")
        weight = torch.empty(heads, self.num_features, width)
        if identity_init:
            for head in weight:
                _identity_then_orthogonal_(head)
        else:
            weight.uniform_(-(width**-0.5), width**-0.5)
        self.weight = nn.Parameter(weight)
        self.bias: Tensor | None = nn.Parameter(torch.zeros(heads, 1, self.num_features)) if bias else None
        self.input_scale = width**-0.25 if scale_inputs else 1.0

    def forward(self, x: HeadStates, factor: float = 1.0) -> Features:
        """`factor` times the projection, at no cost per token."""
        weight = self.matrix(x, factor).mT
        u = torch.matmul(x, weight)
        return u if self.bias is None else u.add_(self.bias.to(x.dtype), alpha=factor)

    def bound(self, x: HeadStates) -> Tensor:
        """One number no |W x + b| of these tokens exceeds: |W_f| |x| + |b_f|, largest over heads, tokens and rows."""
        norms = torch.linalg.vector_norm(x, dim=-1).amax(dim=(0, 2)) * self.input_scale
        largest = norms * torch.linalg.vector_norm(self.weight, dim=-1).amax(dim=-1).to(x.dtype)
        return largest.amax() if self.bias is None else largest.amax() + self.bias.abs().amax().to(x.dtype)

    def write(self, x: HeadStates, factor: float, out: Features) -> Features:
        """`forward` without gradients, written to `out`."""
        weight = self.matrix(x, factor).mT
        # Example by example: a product over all of them at once would first copy the matrices for each.
        for one, written in zip(x, out, strict=True):
            torch.bmm(one, weight, out=written)
        return out if self.bias is None else out.add_(self.bias.to(x.dtype), alpha=factor)

    def pull_back(self, x: HeadStates, of_u: Features) -> tuple[HeadStates, dict[str, Tensor]]:
        """Gradients of `x` and of weight and bias, given that of the projection."""
        weight = self.matrix(x)
        grad, rows = torch.matmul(of_u, weight), (of_u.flatten(0, 1), x.flatten(0, 1))
        found = {}
        if self.weight.requires_grad:
            per_row = torch.bmm(rows[0].mT, rows[1]).unflatten(0, x.shape[:2]).sum(dim=0) * self.input_scale
            found["projection.weight"] = per_row.sum_to_size(self.weight.shape)
        if self.bias is not None and self.bias.requires_grad:
            found["projection.bias"] = of_u.sum(dim=2).sum(dim=0)[:, None].sum_to_size(self.bias.shape)
        return grad, found

    def matrix(self, x: HeadStates, factor: float = 1.0) -> HeadMatrix:
        """`factor` times the matrix of every head of `x`, in its dtype, with all scales in it."""
        scale = factor * self.input_scale
        weight = self.weight.to(x.dtype)
        return (weight if scale == 1.0 else weight * scale).expand(x.shape[1], -1, -1)


def _identity_then_orthogonal_(weight: Tensor) -> None:
    """Fills (features, d) in place, in blocks of d rows: the identity first, then random orthogonal matrices."""
    width = weight.shape[1]
    nn.init.eye_(weight[:width])
    for start in range(width, weight.shape[0], width):
        nn.init.orthogonal_(weight[start : start + width])
