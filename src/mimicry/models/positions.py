"""Rotary positions: queries and keys turned by their position, so that products know only distances."""

import torch
from torch import Tensor, nn

from mimicry.shapes import HeadStates, Rotation

# Of the slowest rotation, in tokens per radian: that of the source.
BASE = 10_000.0


class RotaryPositions(nn.Module):
    """Cosines and sines of position times frequency, frequency_i = BASE^(-2i / d). Source: arXiv 2104.09864, Eq. 34.

    Args:
        head_dim: d, even.
        max_length: positions that there are angles for, in tokens.
    """

    cos: Tensor
    sin: Tensor

    def __init__(self, head_dim: int, max_length: int) -> None:
        super().__init__()
        # Angles in float64: at position 4,000 float32 would already be off by the rounding of the product.
        frequency = BASE ** (-torch.arange(0, head_dim, 2, dtype=torch.float64) / head_dim)
        angle = torch.arange(max_length, dtype=torch.float64)[:, None] * frequency
        self.register_buffer("cos", angle.cos().float(), persistent=False)
        self.register_buffer("sin", angle.sin().float(), persistent=False)

    def forward(self, tokens: int) -> Rotation:
        """The rotation of the first positions."""
        return self.cos[:tokens], self.sin[:tokens]


def rotate(x: HeadStates, rotation: Rotation) -> HeadStates:
    """Turns each pair (x_i, x_{i + d/2}) by its angle."""
    cos, sin = (table.to(x.dtype) for table in rotation)
    first, second = x.chunk(2, dim=-1)
    return torch.cat([first * cos - second * sin, second * cos + first * sin], dim=-1)
