"""The contract of a feature map phi, of those that are exponentials, and of those whose products need no features."""

from abc import ABC, abstractmethod

from torch import nn

from mimicry.shapes import Features, HeadStates, Keys, Queries, Scores


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
        """Features of `x`; `start` is the position of its first token (only positional maps look at it)."""

    def before_step(self, step: int) -> None:
        """Called once before training step `step`; maps that redraw randomness over training do it here."""


class LogFeatureMap(FeatureMap):
    """A map whose features are exponentials, phi(x) = exp(log_features(x)).

    Knowing the logarithm lets the attention shift exponents exactly (per feature on keys, per token on queries, both
    cancel in the normalised weights), so that nothing overflows however large the projections grow.
    """

    @abstractmethod
    def log_features(self, x: HeadStates, start: int = 0) -> Features:
        """Log phi(x), any sign."""

    def forward(self, x: HeadStates, start: int = 0) -> Features:
        return self.log_features(x, start).exp()


class KernelFeatureMap(FeatureMap):
    """A map without parameters or positions whose products phi(q) . phi(k) have a closed form.

    Many features make the linear form dear on short sequences; the closed form costs as little as softmax's scores.
    """

    @abstractmethod
    def kernel(self, q: Queries, k: Keys) -> Scores:
        """phi(q_i) . phi(k_j) of all pairs."""
