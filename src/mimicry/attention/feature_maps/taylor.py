"""The second-order Taylor expansion of exp."""

import torch

from mimicry.attention.base import AttentionDims
from mimicry.attention.feature_maps.base import KernelFeatureMap
from mimicry.shapes import Features, HeadStates, Keys, Queries, Scores


class TaylorFeatureMap(KernelFeatureMap):
    """phi(q) . phi(k) = 1 + s + s^2/2 with s = q . k / sqrt(d). Source: arXiv 2402.04347, Sec. 4.1.

    With y = x / d^(1/4): phi(x) = [1, y, y_i^2 / sqrt(2), y_i y_j for i < j]. The kernel is always >= 1/2 and increases
    in s for s > -1.
    Deviation: the paper's map keeps both y_i y_j and y_j y_i (1 + d + d^2 features); merging the two is the same kernel
    with feature_dim = 1 + d + d(d+1)/2.
    """

    rows: torch.Tensor
    columns: torch.Tensor
    coefficients: torch.Tensor

    def __init__(self, dims: AttentionDims) -> None:
        width = dims.head_dim
        super().__init__(feature_dim=1 + width + width * (width + 1) // 2)
        rows, columns = torch.triu_indices(width, width)
        self.register_buffer("rows", rows, persistent=False)
        self.register_buffer("columns", columns, persistent=False)
        coefficients = torch.ones(len(rows), dtype=torch.float64).masked_fill(rows == columns, 0.5**0.5)
        self.register_buffer("coefficients", coefficients, persistent=False)
        self.input_scale = width**-0.25

    def forward(self, x: HeadStates, start: int = 0) -> Features:
        y = x * self.input_scale
        squares = y[..., self.rows] * y[..., self.columns] * self.coefficients.to(y.dtype)
        return torch.cat([torch.ones_like(y[..., :1]), y, squares], dim=-1)

    def kernel(self, q: Queries, k: Keys) -> Scores:
        s = torch.einsum("bhnd,bhmd->bhnm", q * self.input_scale, k * self.input_scale)
        # Equals 1 + s + s^2/2, and is never below 1/2 however it is rounded.
        return ((1 + s).square() + 1) / 2
