"""The Hedgehog feature map: learnt, spiky and monotone."""

import math
from typing import Any

import torch
from torch import Tensor

from mimicry.attention.base import AttentionDims
from mimicry.attention.feature_maps.base import FeatureMap, LogFeatureMap
from mimicry.attention.feature_maps.joint import joint_projection
from mimicry.attention.feature_maps.projection import HeadProjection
from mimicry.attention.scratch import Scratch
from mimicry.shapes import ChunkFeatures, Features, HeadStates, TokenFeatures

LOG2_E = math.log2(math.e)


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

    def forward(self, x: HeadStates, start: int = 0) -> Features:
        features: Features = _ExponentialPair.apply(self.projection(x, factor=LOG2_E))  # type: ignore[no-untyped-call]
        return features

    def of_token(self, key_map: FeatureMap, q: HeadStates, k: HeadStates, start: int) -> TokenFeatures:
        assert isinstance(key_map, HedgehogFeatureMap)
        u = joint_projection(self.projection, key_map.projection, q, k)
        return torch.cat([u, -u], dim=-1).exp_()

    def log_bound(self, x: HeadStates) -> Tensor:
        return self.projection.bound(x)

    def write_chunks(self, x: HeadStates, start: int, out: ChunkFeatures, memory: Scratch) -> None:
        u = memory.take("projection", *x.shape[:3], self.projection.num_features)
        _exponential_pair(self.projection.write(x, LOG2_E, u).unflatten(2, out.shape[2:4]), out)

    def pull_back(
        self, x: HeadStates, start: int, phi: ChunkFeatures, grad: ChunkFeatures, memory: Scratch
    ) -> tuple[HeadStates, dict[str, Tensor]]:
        # d/du [e^u, e^-u] = [e^u, -e^-u].
        positive, negative = grad.mul_(phi).chunk(2, dim=-1)
        of_u = memory.take("projection", *x.shape[:3], self.projection.num_features)
        torch.sub(positive, negative, out=of_u.unflatten(2, phi.shape[2:4]))
        return self.projection.pull_back(x, of_u)


def _exponential_pair(u: Tensor, phi: Tensor) -> None:
    """Writes [2^u, 2^-u]: on CPUs a power of two costs half, and a reciprocal a sixth, of an exponential."""
    positive, negative = phi.chunk(2, dim=-1)
    torch.exp2(u, out=positive)
    torch.reciprocal(positive, out=negative)


class _ExponentialPair(torch.autograd.Function):
    """[2^u, 2^-u] with their gradient."""

    @staticmethod
    def forward(ctx: Any, u: Tensor) -> Tensor:
        phi = u.new_empty(*u.shape[:-1], 2 * u.shape[-1])
        _exponential_pair(u, phi)
        ctx.save_for_backward(phi)
        return phi

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> Tensor:
        (phi,) = ctx.saved_tensors
        positive, negative = (phi * grad).chunk(2, dim=-1)
        return (positive - negative) * math.log(2)
