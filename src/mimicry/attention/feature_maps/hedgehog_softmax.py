"""Hedgehog with each half normalised over its features, the form later code by the same authors uses."""

import math

import torch
from torch import Tensor

from mimicry.attention.base import AttentionDims
from mimicry.attention.feature_maps.base import LogFeatureMap
from mimicry.attention.feature_maps.projection import HeadProjection
from mimicry.shapes import Features, HeadStates


class HedgehogSoftmaxFeatureMap(LogFeatureMap):
    """phi(x) = [softmax(W x + b), softmax(-W x - b)], each softmax over the feature axis, feature_dim = 2d.

    A different kernel from `hedgehog`: the normalisation cancels for queries but rescales each key. Source: LoLCATs
    (arXiv 2410.10254), whose code has no bias; here as there each row of phi sums to 2.
    Deviation: computed through log-softmax, so no clamp at 1e-12 is needed.

    Args: see `HeadProjection`.
    """

    def __init__(
        self,
        dims: AttentionDims,
        bias: bool = False,
        identity_init: bool = True,
        per_head: bool = True,
        scale_inputs: bool = False,
        num_features: int | None = None,
    ) -> None:
        super().__init__(feature_dim=2 * (num_features or dims.head_dim))
        self.projection = HeadProjection(dims, bias, identity_init, per_head, scale_inputs, num_features)

    def log_features(self, x: HeadStates, start: int = 0) -> Features:
        u = self.projection(x)
        return torch.cat([u.log_softmax(dim=-1), (-u).log_softmax(dim=-1)], dim=-1)

    def log_bound(self, x: HeadStates) -> Tensor:
        # log softmax is at most 0, and at least (smallest - largest) - log(number of features).
        return 2 * self.projection.bound(x) + math.log(self.projection.num_features)
