"""The plain ReLU map."""

from mimicry.attention.base import AttentionDims
from mimicry.attention.feature_maps.base import FeatureMap
from mimicry.shapes import Features, HeadStates


class ReluFeatureMap(FeatureMap):
    """phi(x) = max(x, 0) + eps, elementwise and untrained, feature_dim = d. Source: arXiv 2402.04347, Table 1.

    Args:
        dims: sizes of the attention layer.
        eps: added to every feature so that no row of weights is 0/0, >= 0.
    """

    def __init__(self, dims: AttentionDims, eps: float = 1.0e-6) -> None:
        super().__init__(feature_dim=dims.head_dim)
        if eps < 0:
            raise ValueError(f"eps must be >= 0, got {eps}")
        self.eps = eps

    def forward(self, x: HeadStates, start: int = 0) -> Features:
        return x.relu() + self.eps
