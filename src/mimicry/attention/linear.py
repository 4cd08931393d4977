"""Linear attention over a feature map: quadratic weights, and the O(n) forms that compute the same outputs."""

import copy
from collections.abc import Callable

import torch

from mimicry.attention.backend import Backend, check_backend, choose
from mimicry.attention.base import Attention, AttentionDims
from mimicry.attention.causal import causal_log_scores, normalise
from mimicry.attention.feature_maps.base import FeatureMap, KernelFeatureMap
from mimicry.attention.features import first_row_in_range, layer_features, shifted
from mimicry.attention.forms import attend
from mimicry.attention.inputs import Maps, Tokens
from mimicry.attention.prompt import absorb
from mimicry.attention.recurrent import resume
from mimicry.attention.state import LinearState
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

    Four forms give the same outputs: over all pairs (`weights`, backend "reference"); over blocks of tokens,
    bidirectional or causal ("chunked", on GPUs "triton" or "fla"); and token by token (`resume`). Features, sums and
    states are in float32 (float64 for float64 inputs). Where plain exponentials might leave float32's range, they are
    evaluated as exp(log phi - shift) with one shift per feature common to all keys, and one per query: both cancel
    exactly in a_ij, so gradients need not flow through them, and no projection is too large for exp.

    Args:
        dims: sizes of the layer.
        feature_map: builds one map from `dims`; keys get their own copy of what it builds.
        tie_maps: use one and the same map for queries and keys (an ablation).
        eps: floor of the normaliser, > 0; far below what any row with a visible key sums to.
        backend: which form `forward` runs; "auto" takes the cheapest for lengths and device. The choice is logged. On
            CPUs Hedgehog's "chunked" form and decoding run in C where a compiler is found (CC names one).

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
    def maps(self) -> Maps:
        """What tokens are turned into weights by."""
        return Maps(self.query_map, self.key_map, self.eps)

    @property
    def max_length(self) -> int | None:
        return self.query_map.max_length

    def forward(self, q: Queries, k: Keys, v: Values, key_mask: KeyMask | None = None) -> Outputs:
        self.check(q, k, key_mask, v)
        form = choose(self.backend, self.query_map, q, k, v, self.dims.causal)
        with torch.autocast(q.device.type, enabled=False):
            if form == "reference":
                scores = self._scores(q, k, key_mask)
                return normalise(scores @ v.to(scores.dtype), scores.sum(dim=-1), self.eps).to(v.dtype)
            return attend(form, self.maps, Tokens(q, k, v, key_mask), self.dims.causal)

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
            phi_q, phi_k, logarithmic = layer_features(self.maps, q, k, key_mask, self.dims.causal)
            if not logarithmic:
                return phi_q, phi_k
            if self.dims.causal and not first_row_in_range(phi_k, k.shape[2] - q.shape[2], key_mask):
                return None
            return shifted(phi_q, phi_k)

    def absorb(self, k: Keys, v: Values, key_mask: KeyMask | None = None) -> LinearState:
        """The state after the first tokens of a text, whose outputs `forward` gives; no gradients.

        With `resume`, the same as `resume` from the start, at the cost of forming the features of keys twice.

        Args:
            k: keys of the tokens.
            v: their values.
            key_mask: over the tokens.

        Raises:
            ValueError: if the layer is not causal.
        """
        self.check(k, k, key_mask, v)
        self.check_causal()
        return absorb(self.key_map, k, v, key_mask, self._fused(k, k, v))

    def resume(
        self,
        q: Queries,
        k: Keys,
        v: Values,
        state: LinearState | None = None,
        key_mask: KeyMask | None = None,
        overwrite: bool = False,
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
            overwrite: `state` is not needed any more, and its memory may become that of the new one, which takes less
                time than fresh memory.

        Raises:
            ValueError: if the layer is not causal, or the state is that of another layer or batch.
        """
        self.check(q, k, key_mask, v)
        self.check_causal()
        fused = q.shape[2] == k.shape[2] == 1 and self._fused(q, k, v)
        return resume(self.maps, Tokens(q, k, v, key_mask), state, overwrite, fused)

    def _fused(self, q: Queries, k: Keys, v: Values) -> bool:
        """Whether states are summed in Triton's kernels; on a CPU only where asked for, as choosing takes time too."""
        asked = self.backend == "triton" or q.is_cuda
        return asked and choose(self.backend, self.query_map, q, k, v, causal=True) == "triton"

    def _scores(self, q: Queries, k: Keys, key_mask: KeyMask | None) -> Scores:
        """Products of the features of all pairs, each row up to a factor of its own; 0 for keys out of sight."""
        # The map of the keys is the same or a copy.
        if isinstance(self.query_map, KernelFeatureMap):
            dtype = torch.promote_types(q.dtype, torch.float32)
            scores, visible = self.query_map.kernel(q.to(dtype), k.to(dtype)), self.visible(q, k, key_mask)
            return scores if visible is None else scores.masked_fill(~visible, 0.0)
        phi_q, phi_k, logarithmic = layer_features(self.maps, q, k, key_mask, self.dims.causal)
        if logarithmic and self.dims.causal:
            return causal_log_scores(phi_q, phi_k)
        if logarithmic:
            phi_q, phi_k = shifted(phi_q, phi_k)
        scores = torch.einsum("bhnf,bhmf->bhnm", phi_q, phi_k)
        return scores.tril(k.shape[2] - q.shape[2]) if self.dims.causal else scores
