"""Performer's positive random features (FAVOR+), and the weaker form the paper's era used."""

import math
from typing import Literal

import torch
from torch import Tensor

from mimicry.attention.base import AttentionDims
from mimicry.attention.feature_maps.base import LogFeatureMap
from mimicry.shapes import Features, HeadStates


class PerformerFeatureMap(LogFeatureMap):
    """phi_r(x) = exp(w_r . y - |y|^2 / 2) / sqrt(m), y = x / d^(1/4), r = 1..m: unbiased for exp(q . k / sqrt(d)).

    Rows w_r are drawn orthogonal in blocks of d and the same for queries and keys. Source: arXiv 2009.14794, Eq. 7.
    Deviation: the reference code subtracts data-dependent maxima and then adds 1e-4 to every feature, which makes
    weights depend on padded and future keys; both only guard against overflow, which `LinearAttention` rules out.

    Args:
        dims: sizes of the attention layer.
        num_features: m >= 1; None means floor(d ln d), the reference's default.
        row_scaling: "chi" gives each row the norm of a Gaussian vector (FAVOR+), "sqrt_d" the norm sqrt(d),
            "orthonormal" 1 / sqrt(m / d) (the paper-era code).
        norm_factor: keep the factor exp(-|y|^2 / 2); the paper-era code left it out.
        redraw_interval: draw new rows every so many training steps, >= 1, never in evaluation; None keeps them.
    """

    rows: Tensor
    seed: Tensor

    def __init__(
        self,
        dims: AttentionDims,
        num_features: int | None = None,
        row_scaling: Literal["chi", "sqrt_d", "orthonormal"] = "chi",
        norm_factor: bool = True,
        redraw_interval: int | None = 1000,
    ) -> None:
        width = dims.head_dim
        features = max(1, int(width * math.log(width))) if num_features is None else num_features
        super().__init__(feature_dim=features)
        if features < 1:
            raise ValueError(f"num_features must be >= 1, got {num_features}")
        if row_scaling not in ("chi", "sqrt_d", "orthonormal"):
            raise ValueError(f"row_scaling must be one of chi, sqrt_d, orthonormal, got {row_scaling!r}")
        if redraw_interval is not None and redraw_interval < 1:
            raise ValueError(f"redraw_interval must be >= 1, got {redraw_interval}")
        self.head_dim = width
        self.row_scaling = row_scaling
        self.norm_factor = norm_factor
        self.redraw_interval = redraw_interval
        # The seed is part of the state: a copy of this map (keys beside queries) redraws the very same rows.
        self.register_buffer("seed", torch.randint(2**31, ()))
        self.register_buffer("rows", self.draw(0))

    def draw(self, redraws: int) -> Tensor:
        """The m x d random rows after so many redraws."""
        generator = torch.Generator().manual_seed(int(self.seed) + redraws)
        size = (self.head_dim, self.head_dim)
        blocks = math.ceil(self.feature_dim / self.head_dim)
        gaussian = torch.randn(blocks, *size, generator=generator, dtype=torch.float64)
        # The signs make Q a uniform rotation; without them its rows lean to one side and the kernel is biased.
        q, r = torch.linalg.qr(gaussian)
        q = q * r.diagonal(dim1=-2, dim2=-1).sign()[:, None, :]
        rows = q.mT.reshape(-1, self.head_dim)[: self.feature_dim]
        if self.row_scaling == "chi":
            norms = torch.randn(self.feature_dim, self.head_dim, generator=generator, dtype=torch.float64).norm(dim=1)
        elif self.row_scaling == "sqrt_d":
            norms = torch.full((self.feature_dim,), self.head_dim**0.5, dtype=torch.float64)
        else:
            norms = torch.full((self.feature_dim,), (self.head_dim / self.feature_dim) ** 0.5, dtype=torch.float64)
        return (rows * norms[:, None]).float()

    def before_step(self, step: int) -> None:
        if self.redraw_interval is not None and step > 0 and step % self.redraw_interval == 0:
            self.rows.copy_(self.draw(step // self.redraw_interval))

    def log_features(self, x: HeadStates, start: int = 0) -> Features:
        y = x * self.head_dim**-0.25
        log = torch.einsum("bhnd,fd->bhnf", y, self.rows.to(y.dtype)) - 0.5 * math.log(self.feature_dim)
        return log - 0.5 * y.square().sum(dim=-1, keepdim=True) if self.norm_factor else log

    def log_bound(self, x: HeadStates) -> Tensor:
        norm = self.head_dim**-0.25 * torch.linalg.vector_norm(x, dim=-1).amax()
        largest = norm * torch.linalg.vector_norm(self.rows, dim=-1).amax().to(x.dtype)
        return largest + 0.5 * math.log(self.feature_dim) + (0.5 * norm.square() if self.norm_factor else 0.0)
