"""Transformer-to-RNN's learnt ReLU map."""

from mimicry.attention.base import AttentionDims
from mimicry.attention.feature_maps.base import FeatureMap
from mimicry.attention.feature_maps.projection import HeadProjection
from mimicry.shapes import Features, HeadStates


class T2RFeatureMap(FeatureMap):
    """phi(x) = ReLU(W x + b) + eps, feature_dim = d. Source: T2R (arXiv 2103.13076, Eq. 4).

    Swapped in and finetuned without distillation this is the paper's T2R row; with distillation it is T2R-HH.

    Args:
        eps: added to every feature so that no row of weights is 0/0, >= 0.
        dims, bias, identity_init, per_head, scale_inputs, num_features: see `HeadProjection`.
    """

    def __init__(
        self,
        dims: AttentionDims,
        bias: bool = True,
        identity_init: bool = False,
        per_head: bool = True,
        scale_inputs: bool = False,
        num_features: int | None = None,
        eps: float = 1.0e-6,
    ) -> None:
        super().__init__(feature_dim=num_features or dims.head_dim)
        if eps < 0:
            raise ValueError(f"eps must be >= 0, got {eps}")
        self.projection = HeadProjection(dims, bias, identity_init, per_head, scale_inputs, num_features)
        self.eps = eps

    def forward(self, x: HeadStates, start: int = 0) -> Features:
        return self.projection(x).relu() + self.eps
