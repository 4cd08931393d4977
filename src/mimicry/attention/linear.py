"""Linear attention over a feature map: quadratic weights, and the O(n) forms that compute the same outputs."""

import copy
from collections.abc import Callable

import torch

from mimicry.attention.base import Attention, AttentionDims
from mimicry.attention.causal import (
    COMMON_RANGE,
    causal_log_outputs,
    causal_log_scores,
    causal_outputs,
    finite,
    normalise,
)
from mimicry.attention.feature_maps.base import FeatureMap, KernelFeatureMap, LogFeatureMap
from mimicry.shapes import (
    KeyFeatures,
    KeyMask,
    Keys,
    LogKeyFeatures,
    LogWeights,
    Outputs,
    Queries,
    QueryFeatures,
    Scores,
    Values,
    Weights,
)


class LinearAttention(Attention):
    """a_ij = phi(q_i) . phi(k_j) / sum_m phi(q_i) . phi(k_m); y_i = sum_j a_ij v_j. Source: arXiv 2402.04347, Eq. 2.

    Features and sums are computed in float32 (float64 for float64 inputs). Maps given by their logarithm are evaluated
    as exp(log phi - shift) with one shift per feature common to all keys, and one per query: both cancel exactly in
    a_ij, so gradients need not flow through them, and no projection is too large for exp. Causal attention takes the
    shift over visible keys only (see `causal.py`). Maps with a closed-form kernel form no features on short sequences.

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
            if self._pairs_are_cheaper(q.shape[2], k.shape[2]):
                scores = self._scores(q, k, key_mask)
                numerator = torch.einsum("bhnm,bhme->bhne", scores, v.to(scores.dtype))
                return normalise(numerator, scores.sum(dim=-1), self.eps).to(v.dtype)
            phi_q, phi_k, logarithmic = self._features(q, k, key_mask)
            values = v.to(phi_k.dtype)
            if self.dims.causal:
                attend = causal_log_outputs if logarithmic else causal_outputs
                return attend(phi_q, phi_k, values, self.eps).to(v.dtype)
            if logarithmic:
                phi_q, phi_k = _shifted(phi_q, phi_k)
            # O(n): all keys are summed into one state that every query reads.
            kv_state = torch.einsum("bhmf,bhme->bhfe", phi_k, values)
            numerator = torch.einsum("bhnf,bhfe->bhne", phi_q, kv_state)
            denominator = torch.einsum("bhnf,bhf->bhn", phi_q, phi_k.sum(dim=2))
            return normalise(numerator, denominator, self.eps).to(v.dtype)

    def weights(self, q: Queries, k: Keys, key_mask: KeyMask | None = None) -> Weights:
        self.check(q, k, key_mask)
        with torch.autocast(q.device.type, enabled=False):
            scores = self._scores(q, k, key_mask)
            return scores / scores.sum(dim=-1, keepdim=True).clamp(min=self.eps)

    def log_weights(self, q: Queries, k: Keys, key_mask: KeyMask | None = None) -> LogWeights:
        self.check(q, k, key_mask)
        with torch.autocast(q.device.type, enabled=False):
            scores = self._scores(q, k, key_mask)
            # A sum of logs: about half the passes over all pairs, forward and backward, of the log of a quotient.
            normaliser = scores.sum(dim=-1, keepdim=True).clamp(min=self.eps)
            return (scores + torch.finfo(scores.dtype).tiny).log() + normaliser.reciprocal().log()

    def features(
        self, q: Queries, k: Keys, key_mask: KeyMask | None = None
    ) -> tuple[QueryFeatures, KeyFeatures] | None:
        """Features whose products are proportional to each row of weights, for sums over keys out of our hands.

        Causality is left to who sums. Exponentials have one shift per feature for all keys, so that none exceeds 1.

        Returns:
            Features of the queries, and of the keys, where masked ones have zeros. None if attention is causal and
            exponents of later keys exceed those the first query sees by so much that its scores might underflow.
        """
        self.check(q, k, key_mask)
        with torch.autocast(q.device.type, enabled=False):
            phi_q, phi_k, logarithmic = self._features(q, k, key_mask)
            if not logarithmic:
                return phi_q, phi_k
            if self.dims.causal and not _first_row_in_range(phi_k, k.shape[2] - q.shape[2], key_mask):
                return None
            return _shifted(phi_q, phi_k)

    def _pairs_are_cheaper(self, queries: int, keys: int) -> bool:
        """Whether forming the scores of all pairs takes less work, and no more memory, than the features."""
        # Multiply-adds per head: 2 n m d for scores and outputs, against (n + m) f d to write and read the state; with
        # n = m that is up to f tokens. Scores hold n m numbers, features (n + m) f.
        has_kernel = isinstance(self.query_map, KernelFeatureMap)
        return has_kernel and 2 * queries * keys <= (queries + keys) * self.query_map.feature_dim

    def _scores(self, q: Queries, k: Keys, key_mask: KeyMask | None) -> Scores:
        """Products of the features of all pairs, each row up to a factor of its own; 0 for keys out of sight."""
        # The map of the keys is the same or a copy.
        if isinstance(self.query_map, KernelFeatureMap):
            dtype = torch.promote_types(q.dtype, torch.float32)
            scores, visible = self.query_map.kernel(q.to(dtype), k.to(dtype)), self.visible(q, k, key_mask)
            return scores if visible is None else scores.masked_fill(~visible, 0.0)
        phi_q, phi_k, logarithmic = self._features(q, k, key_mask)
        if logarithmic and self.dims.causal:
            return causal_log_scores(phi_q, phi_k)
        if logarithmic:
            phi_q, phi_k = _shifted(phi_q, phi_k)
        scores = torch.einsum("bhnf,bhmf->bhnm", phi_q, phi_k)
        return scores.tril(k.shape[2] - q.shape[2]) if self.dims.causal else scores

    def _features(self, q: Queries, k: Keys, key_mask: KeyMask | None) -> tuple[QueryFeatures, KeyFeatures, bool]:
        """Features of q and k in at least float32, or their logarithms (then True); masked keys count as zero."""
        dtype = torch.promote_types(q.dtype, torch.float32)
        start = k.shape[2] - q.shape[2] if self.dims.causal else 0
        if isinstance(self.query_map, LogFeatureMap) and isinstance(self.key_map, LogFeatureMap):
            phi_q, phi_k = self.query_map.log_features(q.to(dtype), start), self.key_map.log_features(k.to(dtype))
            zero, logarithmic = -torch.inf, True
        else:
            phi_q, phi_k = self.query_map(q.to(dtype), start), self.key_map(k.to(dtype))
            zero, logarithmic = 0.0, False
        if key_mask is not None:
            phi_k = phi_k.masked_fill(~key_mask[:, None, :, None], zero)
        return phi_q, phi_k, logarithmic


def _shifted(log_q: QueryFeatures, log_k: LogKeyFeatures) -> tuple[QueryFeatures, KeyFeatures]:
    """Features from log-features, up to factors that cancel in bidirectional weights; none exceeds 1."""
    if log_k.shape[2] == 0:
        return log_q.exp(), log_k.exp()
    shift = finite(log_k.detach().amax(dim=2, keepdim=True))
    log_q = log_q + shift
    return (log_q - log_q.detach().amax(dim=-1, keepdim=True)).exp(), (log_k - shift).exp()


def _first_row_in_range(log_k: LogKeyFeatures, past: int, key_mask: KeyMask | None) -> bool:
    """Whether no key exceeds, in any feature, what the first query that sees keys sees by more than COMMON_RANGE.

    That query sees the fewest keys; the first `past` + 1, or where these are masked, the first that is not. In range,
    its scores sum to exp(-COMMON_RANGE) or more, and those of exp(-27) of that are normal float32 still.
    """
    if log_k.numel() == 0:
        return True
    log_k = log_k.detach()
    if key_mask is None:
        seen = log_k[:, :, : past + 1]
    else:
        # argmax gives the first of equals.
        newest = key_mask.int().argmax(dim=1).clamp(min=past)
        unseen = torch.arange(log_k.shape[2], device=log_k.device) > newest[:, None]
        seen = log_k.masked_fill(unseen[:, None, :, None], -torch.inf)
    most = seen.amax(dim=2)
    # Examples without any visible key have -inf on both sides.
    ahead = (log_k.amax(dim=2) - most).masked_fill(most.isneginf(), 0.0)
    return bool((ahead <= COMMON_RANGE).all())
