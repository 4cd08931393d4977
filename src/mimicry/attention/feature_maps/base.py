"""The contract of a feature map phi, of those that are exponentials, and of those whose products need no features."""

from abc import ABC, abstractmethod

import torch
from torch import Tensor, nn

from mimicry.attention.scratch import Scratch
from mimicry.shapes import ChunkFeatures, Features, HeadStates, Keys, Queries, Scores, TokenFeatures


class FeatureMap(nn.Module, ABC):
    """phi: R^d -> R^f applied to every token of every head, with phi(q) . phi(k) >= 0.

    One instance serves the queries of a layer, another its keys. A map owns its parameters and its input scaling.

    Attributes:
        feature_dim: f, the number of features per head.
        max_length: longest sequence in tokens the map is defined for; None when there is no limit.
    """

    max_length: int | None = None

    def __init__(self, feature_dim: int) -> None:
        super().__init__()
        self.feature_dim = feature_dim

    @abstractmethod
    def forward(self, x: HeadStates, start: int = 0) -> Features:
        """Features of `x`, a new tensor; `start` is the position of its first token (only positional maps use it)."""

    def write_chunks(self, x: HeadStates, start: int, out: ChunkFeatures, memory: Scratch) -> None:
        """`forward` without gradients, written to `out`: the tokens of `x` split into chunks, in any memory order."""
        out.copy_(self(x, start).unflatten(2, out.shape[2:4]))

    def pull_back(
        self, x: HeadStates, start: int, phi: ChunkFeatures, grad: ChunkFeatures, memory: Scratch
    ) -> tuple[HeadStates, dict[str, Tensor]]:
        """Gradients of `x` and of the named parameters, given `write_chunks`'s output and its gradient (lost)."""
        with torch.enable_grad():
            leaf = x.detach().requires_grad_()
            return pulled_back(self, self(leaf, start), leaf, grad.flatten(2, 3))

    def of_token(self, key_map: "FeatureMap", q: HeadStates, k: HeadStates, start: int) -> TokenFeatures:
        """`self(q, start)` and `key_map(k, start)` of a single token at position `start`; no gradients."""
        return torch.stack([self(q, start), key_map(k, start)])

    def before_step(self, step: int) -> None:
        """Called once before training step `step`; maps that redraw randomness over training do it here."""


def pulled_back(feature_map: nn.Module, y: Tensor, leaf: Tensor, grad: Tensor) -> tuple[HeadStates, dict[str, Tensor]]:
    """Gradients of `leaf` and of the map's trained parameters through the graph that ends in `y`."""
    learnt = {name: p for name, p in feature_map.named_parameters() if p.requires_grad}
    mine, *others = torch.autograd.grad(y, (leaf, *learnt.values()), grad, allow_unused=True)
    found = {name: other for name, other in zip(learnt, others, strict=True) if other is not None}
    return torch.zeros_like(leaf) if mine is None else mine, found


class LogFeatureMap(FeatureMap):
    """A map whose features are exponentials, phi(x) = exp(log_features(x)).

    Knowing the logarithm lets the attention shift exponents exactly (per feature on keys, per token on queries, both
    cancel in the normalised weights), so that nothing overflows however large the projections grow.
    """

    @abstractmethod
    def log_features(self, x: HeadStates, start: int = 0) -> Features:
        """Log phi(x), any sign."""

    @abstractmethod
    def log_bound(self, x: HeadStates) -> Tensor:
        """One number no |log phi| of these tokens exceeds, found without forming features; NaN if `x` has one."""

    def forward(self, x: HeadStates, start: int = 0) -> Features:
        return self.log_features(x, start).exp()


class KernelFeatureMap(FeatureMap):
    """A map without parameters or positions whose products phi(q) . phi(k) have a closed form.

    Many features make the linear form dear on short sequences; the closed form costs as little as softmax's scores.
    """

    @abstractmethod
    def kernel(self, q: Queries, k: Keys) -> Scores:
        """phi(q_i) . phi(k_j) of all pairs."""
