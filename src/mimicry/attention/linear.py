"""Linear attention over a feature map: quadratic weights, and the O(n) forms that compute the same outputs."""

import copy
from collections.abc import Callable

import torch
from torch import Tensor

from mimicry.attention.base import Attention, AttentionDims
from mimicry.attention.feature_maps.base import FeatureMap, LogFeatureMap
from mimicry.shapes import KeyFeatures, KeyMask, Keys, Outputs, Queries, QueryFeatures, Values, Weights

# Tokens per chunk of the causal form: inside a chunk a masked product, across chunks a running state.
CHUNK = 64


class LinearAttention(Attention):
    """a_ij = phi(q_i) . phi(k_j) / sum_m phi(q_i) . phi(k_m); y_i = sum_j a_ij v_j. Source: arXiv 2402.04347, Eq. 2.

    Features and sums are computed in float32 (float64 for float64 inputs). Maps given by their logarithm are evaluated
    as exp(log phi - shift) with one shift per feature common to all keys, and one per query: both cancel exactly in
    a_ij, so gradients need not flow through them, and bidirectional attention overflows for no projection. In causal
    attention the shift covers future keys too: a key whose exponent lies more than 80 below that of a later one
    counts as zero there.

    Args:
        dims: sizes of the layer.
        feature_map: builds one map from `dims`; keys get their own copy of what it builds.
        tie_maps: use one and the same map for queries and keys (an ablation).
        eps: floor of the normaliser, > 0; far below what any row with a visible key sums to.
    """

    def __init__(
        self,
        dims: AttentionDims,
        feature_map: Callable[..., FeatureMap],
        tie_maps: bool = False,
        eps: float = 1.0e-30,
    ) -> None:
        super().__init__(dims)
        if eps <= 0:
            raise ValueError(f"eps must be > 0, got {eps}")
        self.query_map = feature_map(dims=dims)
        # A copy, not a second build: maps with random rows must share them between queries and keys.
        self.key_map = self.query_map if tie_maps else copy.deepcopy(self.query_map)
        self.eps = eps

    @property
    def max_length(self) -> int | None:
        return self.query_map.max_length

    def forward(self, q: Queries, k: Keys, v: Values, key_mask: KeyMask | None = None) -> Outputs:
        self.check(q, k, key_mask)
        with torch.autocast(q.device.type, enabled=False):
            phi_q, phi_k = self.features(q, k, key_mask)
            attend = self._causal if self.dims.causal else self._bidirectional
            return attend(phi_q, phi_k, v.to(phi_k.dtype)).to(v.dtype)

    def weights(self, q: Queries, k: Keys, key_mask: KeyMask | None = None) -> Weights:
        self.check(q, k, key_mask)
        with torch.autocast(q.device.type, enabled=False):
            phi_q, phi_k = self.features(q, k, key_mask)
            scores = torch.einsum("bhnf,bhmf->bhnm", phi_q, phi_k)
            visible = self.visible(q, k, None)
            if visible is not None:
                scores = scores.masked_fill(~visible, 0.0)
            return scores / scores.sum(dim=-1, keepdim=True).clamp(min=self.eps)

    def features(self, q: Queries, k: Keys, key_mask: KeyMask | None) -> tuple[QueryFeatures, KeyFeatures]:
        """phi(q) and phi(k) up to factors that cancel in the weights; masked keys have zero features."""
        dtype = torch.promote_types(q.dtype, torch.float32)
        q, k = q.to(dtype), k.to(dtype)
        start = k.shape[2] - q.shape[2] if self.dims.causal else 0
        hidden = None if key_mask is None else ~key_mask[:, None, :, None]
        if not isinstance(self.query_map, LogFeatureMap) or not isinstance(self.key_map, LogFeatureMap):
            phi_q, phi_k = self.query_map(q, start=start), self.key_map(k)
            return phi_q, phi_k if hidden is None else phi_k.masked_fill(hidden, 0.0)
        log_q, log_k = self.query_map.log_features(q, start), self.key_map.log_features(k)
        if hidden is not None:
            log_k = log_k.masked_fill(hidden, -torch.inf)
        if k.shape[2] == 0:
            return log_q.exp(), log_k.exp()
        # Rows without a visible key have a maximum of -inf: shifting by it would make them NaN.
        shift = log_k.detach().amax(dim=2, keepdim=True).nan_to_num(neginf=0.0)
        log_q = log_q + shift
        return (log_q - log_q.detach().amax(dim=-1, keepdim=True)).exp(), (log_k - shift).exp()

    def _normalise(self, numerator: Tensor, denominator: Tensor) -> Tensor:
        return numerator / denominator[..., None].clamp(min=self.eps)

    def _bidirectional(self, phi_q: QueryFeatures, phi_k: KeyFeatures, v: Values) -> Outputs:
        """O(n f e): all keys are summed into one state that every query reads."""
        kv_state = torch.einsum("bhmf,bhme->bhfe", phi_k, v)
        k_state = phi_k.sum(dim=2)
        numerator = torch.einsum("bhnf,bhfe->bhne", phi_q, kv_state)
        return self._normalise(numerator, torch.einsum("bhnf,bhf->bhn", phi_q, k_state))

    def _causal(self, phi_q: QueryFeatures, phi_k: KeyFeatures, v: Values) -> Outputs:
        """O(n): masked products inside chunks of queries, a running state over all keys before the chunk."""
        n, past = phi_q.shape[2], phi_k.shape[2] - phi_q.shape[2]
        kv_state = torch.einsum("bhmf,bhme->bhfe", phi_k[:, :, :past], v[:, :, :past])
        k_state = phi_k[:, :, :past].sum(dim=2)
        outputs = []
        for start in range(0, n, CHUNK):
            chunk = slice(start, min(start + CHUNK, n))
            keys = slice(past + chunk.start, past + chunk.stop)
            queries, new_k, new_v = phi_q[:, :, chunk], phi_k[:, :, keys], v[:, :, keys]
            scores = torch.einsum("bhnf,bhmf->bhnm", queries, new_k).tril()
            numerator = scores @ new_v + torch.einsum("bhnf,bhfe->bhne", queries, kv_state)
            denominator = scores.sum(dim=-1) + torch.einsum("bhnf,bhf->bhn", queries, k_state)
            outputs.append(self._normalise(numerator, denominator))
            kv_state = kv_state + torch.einsum("bhmf,bhme->bhfe", new_k, new_v)
            k_state = k_state + new_k.sum(dim=2)
        return torch.cat(outputs, dim=2) if outputs else torch.zeros_like(v[:, :, :0])
