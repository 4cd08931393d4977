"""The fixed exponential map: spiky but not monotone, the paper's deliberate control."""

from torch import Tensor

from mimicry.attention.base import AttentionDims
from mimicry.attention.feature_maps.base import LogFeatureMap
from mimicry.shapes import Features, HeadStates


class ExponentialFeatureMap(LogFeatureMap):
    """phi(x) = exp(t x), elementwise and untrained, feature_dim = d. Source: arXiv 2402.04347, Table 1.

    Args:
        dims: sizes of the attention layer.
        temperature: t > 0; the paper uses 1 and 2. Larger is spikier.
    """

    def __init__(self, dims: AttentionDims, temperature: float = 1.0) -> None:
        super().__init__(feature_dim=dims.head_dim)
        if temperature <= 0:
            raise ValueError(f"temperature must be > 0, got {temperature}")
        self.temperature = temperature

    def log_features(self, x: HeadStates, start: int = 0) -> Features:
        return self.temperature * x

    def log_bound(self, x: HeadStates) -> Tensor:
        return self.temperature * x.abs().amax()
