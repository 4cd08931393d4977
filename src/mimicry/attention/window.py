"""Softmax inside a sliding window, linear attention to everything beyond, under one normaliser."""

import copy
import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import Literal, get_args

import torch
from torch import Tensor, nn

from mimicry.attention.base import Attention, AttentionDims
from mimicry.attention.feature_maps.base import FeatureMap, LogFeatureMap
from mimicry.attention.features import finite
from mimicry.attention.row_sums import RowSums, add, combine
from mimicry.attention.sliding_window import at_least_float32, masked_softmax, present_keys, scaled_scores
from mimicry.attention.window_linear import linear_sums, sums_after
from mimicry.attention.window_softmax import Sinks, Window, softmax_sums
from mimicry.attention.window_state import WindowState, following
from mimicry.shapes import KeyMask, Keys, LogWeights, Outputs, Queries, Scores, Values, Visible, Weights

Ablation = Literal["none", "linear", "window"]


class WindowLinearAttention(Attention):
    """a_ij = s_ij / sum_m s_im over all keys, softmax's score near to the query and a linear one beyond.

    s_ij = gamma_h exp(q_i . k_j / sqrt(d)) for keys in the window of query i and for sinks, phi(q_i) . phi(k_j) for
    all others. `forward` takes O(n window) time and memory. Source: LoLCATs, arXiv 2410.10254, Eq. 6.

    Deviations: LoLCATs divides the softmax part alone by its largest term exp(c_i), which multiplies gamma_h by
    exp(-c_i), another one for every query. Here both parts keep their true ratio: whatever is taken out of exponents
    is a factor common to the row, which cancels. As nothing bounds that ratio, gamma = exp(log_mixing) takes the place
    of a sigmoid. It starts where a key weighs the same on either side of the window if q = k = 0, which is
    gamma = phi(0) . phi(0). Sinks, and a window on both sides for encoders, are not LoLCATs'.

    Args:
        dims: sizes of the layer.
        feature_map: builds one map from `dims`, with exponentials for features; keys get their own copy of it.
        window: tokens from a query to the first key beyond, see `Window`.
        num_sinks: first tokens that are softmax's wherever the query stands, see `Window`.
        learn_mixing: train gamma, one per head; False keeps it at its start.
        ablate: the part that evaluation does without, while training sees both: "linear" drops what lies beyond the
            window, "window" drops softmax, sinks included; the rest is normalised by itself. May be set at any time.
        tie_maps: use one and the same map for queries and keys (an ablation).

    Raises:
        ValueError: if an option is out of range, or the features of the map are no exponentials.
    """

    log_mixing: Tensor

    def __init__(
        self,
        dims: AttentionDims,
        feature_map: Callable[..., FeatureMap],
        window: int = 16,
        num_sinks: int = 1,
        learn_mixing: bool = True,
        ablate: Ablation = "none",
        tie_maps: bool = False,
    ) -> None:
        super().__init__(dims)
        self.window = Window(window, num_sinks, dims.causal)
        query_map = feature_map(dims=dims)
        if not isinstance(query_map, LogFeatureMap):
            raise ValueError(f"feature_map must have exponentials for features, got {type(query_map).__name__}")
        self.query_map = query_map
        self.key_map = query_map if tie_maps else copy.deepcopy(query_map)
        self.ablate = ablate
        zero = torch.zeros(1, dims.num_heads, 1, dims.head_dim)
        with torch.no_grad():
            at_zero = self.query_map.log_features(zero) + self.key_map.log_features(zero)
        log_mixing = at_zero[0].logsumexp(dim=-1, keepdim=True)
        if learn_mixing:
            self.log_mixing = nn.Parameter(log_mixing)
        else:
            self.register_buffer("log_mixing", log_mixing)

    @property
    def max_length(self) -> int | None:
        return self.query_map.max_length

    @property
    def ablate(self) -> Ablation:
        """The part that is left out in evaluation mode."""
        return self._ablate

    @ablate.setter
    def ablate(self, part: Ablation) -> None:
        if part not in get_args(Ablation):
            raise ValueError(f"ablate must be one of {', '.join(get_args(Ablation))}, got {part!r}")
        self._ablate = part

    def forward(self, q: Queries, k: Keys, v: Values, key_mask: KeyMask | None = None) -> Outputs:
        self.check(q, k, key_mask, v)
        with torch.autocast(q.device.type, enabled=False):
            x, y, z = at_least_float32(q, k, v)
            present, parts = present_keys(k, key_mask), []
            if self._dropped != "window":
                parts += self._near(x, y, z, present)
            if self._dropped != "linear":
                parts += self._linear(x, y, z, present)
            return combine(parts).to(v.dtype)

    def absorb(self, k: Keys, v: Values, key_mask: KeyMask | None = None) -> WindowState:
        """The state after the first tokens of a text; see `LinearAttention.absorb`."""
        self.check(k, k, key_mask, v)
        self.check_causal()
        return WindowState.of(k, v, present_keys(k, key_mask), self.window, self.key_map)

    def resume(
        self,
        q: Queries,
        k: Keys,
        v: Values,
        state: WindowState | None = None,
        key_mask: KeyMask | None = None,
        overwrite: bool = False,
    ) -> tuple[Outputs, WindowState]:
        """Outputs of the tokens after those in `state`, and the state after them; see `LinearAttention.resume`.

        The new state is always a fresh one: its window moves.
        """
        self.check(q, k, key_mask, v)
        self.check_causal()
        with torch.no_grad(), torch.autocast(q.device.type, enabled=False):
            after = following(state, q, k, v, present_keys(k, key_mask), self.window, self.key_map)
            left = after.leaving(self.window, self.key_map)
            kept, parts = after.trimmed(self.window, left), []
            x, y, z = at_least_float32(q, after.k, after.v)
            if self._dropped != "window":
                parts += self._near(x, y, z, after.key_mask, after.sinks.to(x.dtype, after.first))
            if self._dropped != "linear":
                log_q = self.query_map.log_features(x, after.tokens - q.shape[2])
                parts.append(sums_after(log_q, *left, after.beyond, kept.beyond))
            return combine(parts).to(v.dtype), kept

    def weights(self, q: Queries, k: Keys, key_mask: KeyMask | None = None) -> Weights:
        self.check(q, k, key_mask)
        with torch.autocast(q.device.type, enabled=False):
            return masked_softmax(*self._log_scores(q, k, key_mask))

    def log_weights(self, q: Queries, k: Keys, key_mask: KeyMask | None = None) -> LogWeights:
        self.check(q, k, key_mask)
        with torch.autocast(q.device.type, enabled=False):
            scores, visible = self._log_scores(q, k, key_mask)
            limits = torch.finfo(scores.dtype)
            logs = scores.masked_fill(~visible, limits.min).log_softmax(dim=-1)
            return logs.masked_fill(~visible, math.log(limits.tiny))

    @property
    def _dropped(self) -> Ablation:
        return "none" if self.training else self.ablate

    def _log_scores(self, q: Queries, k: Keys, key_mask: KeyMask | None) -> tuple[Scores, Visible]:
        """Log s_ij of all pairs, each row less a constant of its own, and which of them count."""
        present, (x, y) = present_keys(k, key_mask), at_least_float32(q, k)
        near, beyond = self.window.split(q.shape[2], k.shape[2], present)
        softmax = scaled_scores(x, y) + self.log_mixing.to(x.dtype)
        if self._dropped == "linear":
            return softmax, near
        linear = add(self._linear(x, y, None, present))
        log_linear = (linear.numerator + torch.finfo(x.dtype).tiny).log()
        if self._dropped == "window":
            return log_linear, beyond
        # Against the largest of the row, so that large exponents cost the small ones no digits.
        largest = finite(torch.maximum(softmax.detach().masked_fill(~near, -torch.inf).amax(dim=-1), linear.shift))
        log_linear = log_linear + (linear.shift - largest)[..., None]
        return torch.where(beyond, log_linear, softmax - largest[..., None]), near | beyond

    def _near(self, q: Queries, k: Keys, v: Values, key_mask: KeyMask, sinks: Sinks | None = None) -> list[RowSums]:
        log_mixing = self.log_mixing.to(q.dtype).squeeze(-1)
        near = softmax_sums(q, k, v, key_mask, self.window, sinks)
        return [replace(part, shift=part.shift + log_mixing) for part in near]

    def _linear(self, q: Queries, k: Keys, v: Values | None, key_mask: KeyMask) -> list[RowSums]:
        start = k.shape[2] - q.shape[2] if self.dims.causal else 0
        log_q, log_k = self.query_map.log_features(q, start), self.key_map.log_features(k)
        # Sinks are softmax's wherever they lie.
        hidden = ~key_mask | self.window.sinks(key_mask)
        log_k = log_k.masked_fill(hidden[:, None, :, None], -torch.inf)
        return linear_sums(log_q, log_k, v, self.window.size, self.dims.causal)


@contextmanager
def ablated(model: nn.Module, part: Ablation) -> Iterator[None]:
    """Inside the block, every hybrid layer of `model` runs without `part` in evaluation mode.

    Args:
        model: a converted model in evaluation mode; its layers get their own setting back afterwards.
        part: see `WindowLinearAttention`.

    Raises:
        ValueError: if the model has no hybrid layer, is training, or `part` is unknown.
    """
    layers = [module for module in model.modules() if isinstance(module, WindowLinearAttention)]
    if not layers or model.training:
        state = "in training mode" if layers else "without any"
        raise ValueError(f"model must have windowed hybrid attention and be in evaluation mode, got one {state}")
    before = [layer.ablate for layer in layers]
    try:
        for layer in layers:
            layer.ablate = part
        yield
    finally:
        for layer, setting in zip(layers, before, strict=True):
            layer.ablate = setting
