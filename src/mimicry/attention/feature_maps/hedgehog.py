"""The Hedgehog feature map: learnt, spiky and monotone."""

import torch

from mimicry.attention.base import AttentionDims
from mimicry.attention.feature_maps.base import LogFeatureMap
from mimicry.attention.feature_maps.projection import HeadProjection
from mimicry.shapes import Features, HeadStates


class HedgehogFeatureMap(LogFeatureMap):
    """phi(x) = [exp(W x + b), exp(-W x - b)], feature_dim = 2 num_features. Source: arXiv 2402.04347, Sec. 4.

    One W per head and layer, separate for queries and keys, square in the paper, initialised to the identity, b = 0.
    The paper's Llama run has no bias (its count of trained parameters shows so): `bias=False`.

    Args: see `HeadProjection`.
    """

    def __init__(
        self,
        dims: AttentionDims,
        bias: bool = True,
        identity_init: bool = True,
        per_head: bool = True,
        scale_inputs: bool = False,
        num_features: int | None = None,
    ) -> None:
        super().__init__(feature_dim=2 * (num_features or dims.head_dim))
        self.projection = HeadProjection(dims, bias, identity_init, per_head, scale_inputs, num_features)

    def log_features(self, x: HeadStates, start: int = 0) -> Features:
        u = self.projection(x)
        return torch.cat([u, -u], dim=-1)
