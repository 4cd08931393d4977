"""The 1 + ELU map of the first linear Transformers."""

import torch
from torch import Tensor

from mimicry.attention.base import AttentionDims
from mimicry.attention.feature_maps.base import LogFeatureMap
from mimicry.shapes import Features, HeadStates


class EluFeatureMap(LogFeatureMap):
    """phi(x) = 1 + ELU(x), elementwise and untrained, feature_dim = d. Source: arXiv 2006.16236, Eq. 7."""

    def __init__(self, dims: AttentionDims) -> None:
        super().__init__(feature_dim=dims.head_dim)

    def log_features(self, x: HeadStates, start: int = 0) -> Features:
        return torch.where(x > 0, x.clamp(min=0).log1p(), x)

    def forward(self, x: HeadStates, start: int = 0) -> Features:
        # Not elu(x) + 1: below -17 in float32 that is exp(x) - 1 + 1 = 0.
        return x.clamp(max=0).exp() + x.relu()

    def log_bound(self, x: HeadStates) -> Tensor:
        # log(1 + x) <= x for x > 0, and the logarithm is x itself below.
        return x.abs().amax()
