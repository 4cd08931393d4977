"""The 1 + ELU map of the first linear Transformers."""

import torch.nn.functional as F

from mimicry.attention.base import AttentionDims
from mimicry.attention.feature_maps.base import FeatureMap
from mimicry.shapes import Features, HeadStates


class EluFeatureMap(FeatureMap):
    """phi(x) = 1 + ELU(x), elementwise and untrained, feature_dim = d. Source: arXiv 2006.16236, Eq. 7."""

    def __init__(self, dims: AttentionDims) -> None:
        super().__init__(feature_dim=dims.head_dim)

    def forward(self, x: HeadStates, start: int = 0) -> Features:
        return 1.0 + F.elu(x)
