"""Linear attention over a feature map: quadratic weights, and the O(n) forms that compute the same outputs."""

import copy
from collections.abc import Callable

import torch

from mimicry.attention.backend import Backend, announce, check_backend, choose
from mimicry.attention.base import Attention, AttentionDims
from mimicry.attention.causal import causal_log_outputs, causal_log_scores, causal_outputs, normalise
from mimicry.attention.feature_maps.base import FeatureMap, KernelFeatureMap, LogFeatureMap
from mimicry.attention.features import (
    BlockFeatures,
    first_exponents,
    first_row_in_range,
    is_exponential,
    largest_exponents,
    needs_shift,
    one_shift_serves,
    shifted,
)
from mimicry.attention.recurrent import initial_state, resume
from mimicry.attention.state import LinearState
from mimicry.attention.streaming import streaming_attention
from mimicry.shapes import (
    KeyFeatures,
    KeyMask,
    Keys,
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

    Four forms give the same outputs: over all pairs (`weights`, backend "reference"), over blocks of tokens
    ("chunked", bidirectional or causal), and token by token (`resume`). Features, sums and states are in float32
    (float64 for float64 inputs). Where plain exponentials might leave float32's range, they are evaluated as
    exp(log phi - shift) with one shift per feature common to all keys, and one per query: both cancel exactly in a_ij,
    so gradients need not flow through them, and no projection is too large for exp.

    Args:
        dims: sizes of the layer.
        feature_map: builds one map from `dims`; keys get their own copy of what it builds.
        tie_maps: use one and the same map for queries and keys (an ablation).
        eps: floor of the normaliser, > 0; far below what any row with a visible key sums to.
        backend: which form `forward` runs; "auto" takes the cheapest for lengths and device. The choice is logged.

    Raises:
        ValueError: if eps is not positive, or the backend is unknown or not available.
    """

    def __init__(
        self,
        dims: AttentionDims,
        feature_map: Callable[..., FeatureMap],
        tie_maps: bool = False,
        eps: float = 1.0e-30,
        backend: Backend = "auto",
    ) -> None:
        super().__init__(dims)
        if eps <= 0:
            raise ValueError(f"eps must be > 0, got {eps}")
        self.query_map = feature_map(dims=dims)
        # A copy, not a second build: maps with random rows must share them between queries and keys.
        self.key_map = self.query_map if tie_maps else copy.deepcopy(self.query_map)
        self.eps = eps
        check_backend(backend)
        self.backend = backend

    @property
    def max_length(self) -> int | None:
        return self.query_map.max_length

    def forward(self, q: Queries, k: Keys, v: Values, key_mask: KeyMask | None = None) -> Outputs:
        self.check(q, k, key_mask, v)
        form = choose(self.backend, self.query_map, q, k, self.dims.causal)
        with torch.autocast(q.device.type, enabled=False):
            if form == "reference":
                scores = self._scores(q, k, key_mask)
                return normalise(scores @ v.to(scores.dtype), scores.sum(dim=-1), self.eps).to(v.dtype)
            return self._chunked(q, k, v, key_mask)

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
            if self.dims.causal and not first_row_in_range(phi_k, k.shape[2] - q.shape[2], key_mask):
                return None
            return shifted(phi_q, phi_k)

    def resume(
        self, q: Queries, k: Keys, v: Values, state: LinearState | None = None, key_mask: KeyMask | None = None
    ) -> tuple[Outputs, LinearState]:
        """Causal outputs of the tokens that follow those summed in `state`, and the state after them; no gradients.

        Any number of tokens: a whole prompt, a piece of one, or one at a time; the outputs are those of `forward` over
        all tokens at once. The state is float32 (float64 for float64 inputs) and never changes in size.

        Args:
            q: queries of the new tokens.
            k: keys of the new tokens.
            v: values of the new tokens.
            state: what `resume` returned for the tokens before; None at the start.
            key_mask: over the new tokens.

        Raises:
            ValueError: if the layer is not causal, or the state is that of another layer or batch.
        """
        self.check(q, k, key_mask, v)
        if not self.dims.causal:
            raise ValueError("resume needs dims.causal = True: bidirectional queries see keys still to come")
        return resume(self.query_map, self.key_map, self.eps, q, k, v, state, key_mask)

    def initial_state(self, v: Values) -> LinearState:
        """The state before any token, for values like `v`."""
        return initial_state(self.key_map, v)

    def _chunked(self, q: Queries, k: Keys, v: Values, key_mask: KeyMask | None) -> Outputs:
        shift, causal = None, self.dims.causal
        dtype = torch.promote_types(q.dtype, torch.float32)
        if causal and q.shape[2] != k.shape[2]:
            return self._pairs_inside_chunks(q, k, v, key_mask)
        if is_exponential(self.query_map, self.key_map) and needs_shift(self.query_map, self.key_map, q, k):
            assert isinstance(self.key_map, LogFeatureMap)
            shift = largest_exponents(self.key_map, k, key_mask)
            if causal and not one_shift_serves(shift, first_exponents(self.key_map, k, key_mask)):
                announce("%s: keys grow by more than e^60 along the sequence; shifts follow each chunk", self.query_map)
                return self._pairs_inside_chunks(q, k, v, key_mask)
        features = BlockFeatures(self.query_map, self.key_map, shift, dtype)
        return streaming_attention(features, q, k, v, key_mask, causal, self.eps)

    def _pairs_inside_chunks(self, q: Queries, k: Keys, v: Values, key_mask: KeyMask | None) -> Outputs:
        """Causal outputs for any growth of exponents and any number of earlier keys, through plain autograd."""
        phi_q, phi_k, logarithmic = self._features(q, k, key_mask)
        attend = causal_log_outputs if logarithmic else causal_outputs
        return attend(phi_q, phi_k, v.to(phi_k.dtype), self.eps).to(v.dtype)

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
            phi_q, phi_k = shifted(phi_q, phi_k)
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
