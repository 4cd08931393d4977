"""The contract every attention obeys: dimensions in, `forward` and `weights` out, and one law between them."""

from abc import ABC, abstractmethod
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from mimicry.shapes import KeyMask, Keys, LogWeights, Outputs, Queries, Values, Visible, Weights


@dataclass(frozen=True)
class AttentionDims:
    """What one attention layer of a host model looks like.

    Args:
        num_heads: query heads, >= 1. Grouped keys and values are expanded to this number before they arrive.
        head_dim: width of one head, >= 1.
        causal: True when query i may attend only to keys j <= i.

    Raises:
        ValueError: if a size is smaller than 1.
    """

    num_heads: int
    head_dim: int
    causal: bool

    def __post_init__(self) -> None:
        for name in ("num_heads", "head_dim"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be >= 1, got {getattr(self, name)}")


class Attention(nn.Module, ABC):
    """Attention over projected q, k, v. Law: `forward(q, k, v, mask) == weights(q, k, mask) @ v`.

    Causality belongs to the layer, key padding is an argument; with fewer queries than keys a causal layer takes the
    queries as the last positions. A query that may attend to no key at all gets zero weights and a zero output.
    """

    def __init__(self, dims: AttentionDims) -> None:
        super().__init__()
        self.dims = dims

    @property
    def max_length(self) -> int | None:
        """Longest sequence in tokens this attention can honour; None when there is no limit."""
        return None

    @abstractmethod
    def forward(self, q: Queries, k: Keys, v: Values, key_mask: KeyMask | None = None) -> Outputs:
        """Attention outputs, in the dtype of `v`."""

    @abstractmethod
    def weights(self, q: Queries, k: Keys, key_mask: KeyMask | None = None) -> Weights:
        """Normalised attention weights: non-negative, each row sums to 1 over the keys it may attend to."""

    def log_weights(self, q: Queries, k: Keys, key_mask: KeyMask | None = None) -> LogWeights:
        """Logarithm of the weights; where they are 0, that of about the smallest normal number instead of -inf."""
        weights = self.weights(q, k, key_mask)
        return weights.clamp(min=torch.finfo(weights.dtype).tiny).log()

    def check(self, q: Tensor, k: Tensor, key_mask: Tensor | None, v: Tensor | None = None) -> None:
        """Raises ValueError unless ranks, sizes, dtypes, devices and the mask fit this layer and one another."""
        expected = (self.dims.num_heads, self.dims.head_dim)
        for name, x in (("q", q), ("k", k)):
            if x.ndim != 4 or (x.shape[1], x.shape[3]) != expected:
                raise ValueError(f"{name} must be (batch, {expected[0]}, tokens, {expected[1]}), got {tuple(x.shape)}")
        if q.shape[0] != k.shape[0]:
            raise ValueError(f"q must have the batch size of k ({k.shape[0]}), got {q.shape[0]}")
        if v is not None and (v.ndim != 4 or v.shape[:3] != k.shape[:3]):
            raise ValueError(f"v must be {tuple(k.shape[:3])} and a width, as k is, got {tuple(v.shape)}")
        for name, other in (("k", k), ("v", v)):
            if other is not None and (other.dtype, other.device) != (q.dtype, q.device):
                raise ValueError(f"{name} must be {q.dtype} on {q.device} as q, got {other.dtype} on {other.device}")
        if not q.dtype.is_floating_point:
            raise ValueError(f"q must be of a floating-point dtype, got {q.dtype}")
        if self.dims.causal and q.shape[2] > k.shape[2]:
            raise ValueError(f"q must have at most as many tokens as k ({k.shape[2]}) when causal, got {q.shape[2]}")
        tokens = (k.shape[0], k.shape[2])
        if key_mask is not None and (key_mask.dtype != torch.bool or key_mask.shape != tokens):
            raise ValueError(f"key_mask must be bool of shape {tokens}, got {key_mask.dtype} {tuple(key_mask.shape)}")
        if key_mask is not None and key_mask.device != k.device:
            raise ValueError(f"key_mask must be on {k.device} as k is, got {key_mask.device}")
        if self.max_length is not None and k.shape[2] > self.max_length:
            raise ValueError(f"sequence length must be <= max_length = {self.max_length}, got {k.shape[2]}")

    def check_causal(self) -> None:
        """Raises ValueError unless the layer is causal, as whoever goes on from a state must be."""
        if not self.dims.causal:
            raise ValueError("a state needs dims.causal = True: bidirectional queries see keys still to come")

    def visible(self, q: Queries, k: Keys, key_mask: KeyMask | None) -> Visible | None:
        """Which keys each query may attend to, broadcastable to (batch, 1, queries, keys); None when all."""
        mask = None if key_mask is None else key_mask[:, None, None, :]
        if self.dims.causal:
            n, m = q.shape[2], k.shape[2]
            triangle = torch.ones(n, m, dtype=torch.bool, device=q.device).tril(m - n)[None, None]
            mask = triangle if mask is None else mask & triangle
        return mask
