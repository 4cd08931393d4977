"""cosFormer: a ReLU map under a cosine that favours nearby tokens."""

import math

import torch

from mimicry.attention.base import AttentionDims
from mimicry.attention.feature_maps.base import FeatureMap
from mimicry.shapes import Features, HeadStates

# M where nobody tells how long the sequences are: the positions of BERT and its relatives.
UNTOLD = 512


class CosformerFeatureMap(FeatureMap):
    """phi(x_i) = [r_i cos(pi i / 2M), r_i sin(pi i / 2M)] with r = ReLU(x) + eps, feature_dim = 2d.

    The kernel is r_q . r_k cos(pi (i - j) / 2M), >= 0 while i, j < M. Source: arXiv 2202.08791, Eq. 10.
    Deviation: the original takes M from the longest sequence of the current batch, so that a token's features change
    with its neighbours in the batch; here M is fixed. Where M is far above the length of the texts the cosine is
    nearly 1 and the map is ReLU's, so M should be the longest sequence that is read, and no more.

    Args:
        dims: sizes of the attention layer.
        max_length: M in tokens, >= 1. Smaller is more local. None is 512; a run on texts or
            sequences fills in the tokens of its longest row.
        eps: added to ReLU so that no row of weights is 0/0, >= 0.
    """

    def __init__(self, dims: AttentionDims, max_length: int | None = None, eps: float = 1.0e-6) -> None:
        super().__init__(feature_dim=2 * dims.head_dim)
        max_length = UNTOLD if max_length is None else max_length
        if max_length < 1:
            raise ValueError(f"max_length must be >= 1, got {max_length}")
        if eps < 0:
            raise ValueError(f"eps must be >= 0, got {eps}")
        self.max_length: int = max_length
        self.eps = eps

    def forward(self, x: HeadStates, start: int = 0) -> Features:
        end = start + x.shape[2]
        if end > self.max_length:
            raise ValueError(f"sequence length must be <= max_length = {self.max_length}, got {end}")
        # Angles in float64: at large positions float32 loses the small differences that the kernel is made of.
        position = torch.arange(start, end, device=x.device, dtype=torch.float64)[:, None]
        angle = position * (math.pi / 2 / self.max_length)
        r = x.relu() + self.eps
        return torch.cat([r * angle.cos().to(x.dtype), r * angle.sin().to(x.dtype)], dim=-1)
