"""Softmax inside a sliding window and over sinks, nothing beyond: what a hybrid is to be compared with."""

import torch
from torch import Tensor

from mimicry.attention.base import Attention, AttentionDims
from mimicry.attention.row_sums import combine
from mimicry.attention.window_softmax import Window, softmax_sums
from mimicry.attention.window_state import WindowState, following
from mimicry.shapes import KeyMask, Keys, Outputs, Queries, Scores, Values, Visible, Weights


class SlidingWindowAttention(Attention):
    """a_ij = exp(q_i . k_j / sqrt(d)) / sum_m exp(q_i . k_m / sqrt(d)) over the window and the sinks, else 0.

    `forward` takes O(n window) time and memory. A query whose window holds nothing but padding sees the sinks alone.
    Source: arXiv 2310.06825, Sec. 2; sinks: StreamingLLM, arXiv 2309.17453, Sec. 3.

    Args:
        dims: sizes of the layer.
        window: tokens from a query to the first key out of sight, see `Window`.
        num_sinks: first tokens in sight of every query, see `Window`; StreamingLLM takes 4 for language models.
    """

    def __init__(self, dims: AttentionDims, window: int = 16, num_sinks: int = 1) -> None:
        super().__init__(dims)
        self.window = Window(window, num_sinks, dims.causal)

    def forward(self, q: Queries, k: Keys, v: Values, key_mask: KeyMask | None = None) -> Outputs:
        self.check(q, k, key_mask, v)
        with torch.autocast(q.device.type, enabled=False):
            x, y, z = at_least_float32(q, k, v)
            return combine(softmax_sums(x, y, z, present_keys(k, key_mask), self.window)).to(v.dtype)

    def weights(self, q: Queries, k: Keys, key_mask: KeyMask | None = None) -> Weights:
        self.check(q, k, key_mask)
        with torch.autocast(q.device.type, enabled=False):
            scores = scaled_scores(*at_least_float32(q, k))
            near, _ = self.window.split(q.shape[2], k.shape[2], present_keys(k, key_mask))
            return masked_softmax(scores, near)

    def absorb(self, k: Keys, v: Values, key_mask: KeyMask | None = None) -> WindowState:
        """The state after the first tokens of a text; see `LinearAttention.absorb`."""
        self.check(k, k, key_mask, v)
        self.check_causal()
        return WindowState.of(k, v, present_keys(k, key_mask), self.window, None)

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
            after = following(state, q, k, v, present_keys(k, key_mask), self.window, None)
            x, y, z = at_least_float32(q, after.k, after.v)
            sinks = after.sinks.to(x.dtype, after.first)
            out = combine(softmax_sums(x, y, z, after.key_mask, self.window, sinks)).to(v.dtype)
            return out, after.trimmed(self.window, None)


def at_least_float32(*tensors: Tensor) -> tuple[Tensor, ...]:
    """All in the precision of the first, or in float32 if that is more: half precision cannot sum a long row."""
    dtype = torch.promote_types(tensors[0].dtype, torch.float32)
    return tuple(x.to(dtype) for x in tensors)


def present_keys(k: Keys, key_mask: KeyMask | None) -> KeyMask:
    """The mask, or one that keeps every key."""
    return torch.ones(k.shape[0], k.shape[2], dtype=torch.bool, device=k.device) if key_mask is None else key_mask


def scaled_scores(q: Queries, k: Keys) -> Scores:
    """Products q . k / sqrt(d) of all pairs."""
    return torch.einsum("bhnd,bhmd->bhnm", q * q.shape[3] ** -0.5, k)


def masked_softmax(scores: Scores, visible: Visible) -> Weights:
    """Softmax over the visible keys of each row; rows without any give 0."""
    # The smallest finite value, not -inf: rows without a visible key stay free of NaN and are cleared here.
    weights = scores.masked_fill(~visible, torch.finfo(scores.dtype).min).softmax(dim=-1)
    return weights * visible.any(dim=-1, keepdim=True)
