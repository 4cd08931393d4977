"""What windowed attention remembers: the last keys and values, the sinks, and sums over all that left the window."""

from dataclasses import dataclass

import torch
from torch import Tensor

from mimicry.attention.feature_maps.base import LogFeatureMap
from mimicry.attention.features import finite
from mimicry.attention.state import LinearState
from mimicry.attention.window_softmax import Sinks, Window
from mimicry.shapes import KeyMask, Keys, LogKeyFeatures, Queries, Values


@dataclass(frozen=True)
class WindowState:
    """The last tokens as they are, and sums over those before them; never written to.

    Args:
        k: keys of the last `Window.size` tokens, or of all while they are fewer.
        v: their values.
        key_mask: False for those that are padding.
        sinks: with positions from the start of the text.
        beyond: sums over the tokens before, sinks left out; None where nothing beyond the window is attended to.
        tokens: how many tokens were seen, padding included: the position of the next one.
    """

    k: Keys
    v: Values
    key_mask: KeyMask
    sinks: Sinks
    beyond: LinearState | None
    tokens: int

    @classmethod
    def empty(cls, k: Keys, v: Values, window: Window, key_map: LogFeatureMap | None) -> "WindowState":
        """The state before any token, for keys and values like these; `key_map` is that of the linear part."""
        none = torch.zeros(k.shape[0], 0, dtype=torch.bool, device=k.device)
        beyond = None
        if key_map is not None:
            dtype = torch.promote_types(v.dtype, torch.float32)
            kv = v.new_zeros(*v.shape[:2], key_map.feature_dim, v.shape[3], dtype=dtype)
            shift = kv.new_full((*kv.shape[:2], 1, kv.shape[2]), -torch.inf)
            beyond = LinearState(kv, kv.new_zeros(kv.shape[:3]), shift, tokens=0)
        return cls(k[:, :, :0], v[:, :, :0], none, Sinks.none(k, v, window.num_sinks), beyond, tokens=0)

    @classmethod
    @torch.no_grad()
    def of(cls, k: Keys, v: Values, key_mask: KeyMask, window: Window, key_map: LogFeatureMap | None) -> "WindowState":
        """The state after the first tokens of a text."""
        with torch.autocast(k.device.type, enabled=False):
            text = cls.empty(k, v, window, key_map).extended(k, v, key_mask)
            return text.trimmed(window, None if key_map is None else text.leaving(window, key_map))

    def check(self, k: Keys, v: Values, window: Window, key_map: LogFeatureMap | None) -> None:
        """Raises ValueError unless tokens like these may follow, in a layer with this window and this map."""
        last = min(self.tokens, window.size)
        beyond = self.k.new_empty(0) if self.beyond is None else self.beyond.kv
        for name, x, shape in (
            ("k", self.k, (*k.shape[:2], last, k.shape[3])),
            ("v", self.v, (*v.shape[:2], last, v.shape[3])),
            ("sinks.k", self.sinks.k, (*k.shape[:2], window.num_sinks, k.shape[3])),
            ("beyond.kv", beyond, (0,) if key_map is None else (*v.shape[:2], key_map.feature_dim, v.shape[3])),
        ):
            if tuple(x.shape) != shape:
                raise ValueError(f"state.{name} must be {shape} for this layer and batch, got {tuple(x.shape)}")

    @property
    def batch_size(self) -> int:
        """Rows of the batch."""
        return self.k.shape[0]

    @property
    def nbytes(self) -> int:
        """Memory of the state in bytes; it does not grow once the window is full."""
        sinks = (self.sinks.k, self.sinks.v, self.sinks.at, self.sinks.found)
        beyond = 0 if self.beyond is None else self.beyond.nbytes
        return beyond + sum(tensor.nbytes for tensor in (self.k, self.v, self.key_mask, *sinks))

    @property
    def first(self) -> int:
        """Position of the first of the last tokens."""
        return self.tokens - self.k.shape[2]

    def reorder(self, rows: Tensor) -> "WindowState":
        """The state of other batch rows, repeated or left out as `rows` (integers, one dimension) says."""
        rows = rows.to(self.k.device)
        beyond = None if self.beyond is None else self.beyond.reorder(rows)
        k, v, key_mask = (x.index_select(0, rows) for x in (self.k, self.v, self.key_mask))
        return WindowState(k, v, key_mask, self.sinks.reorder(rows), beyond, self.tokens)

    def extended(self, k: Keys, v: Values, key_mask: KeyMask) -> "WindowState":
        """With new tokens after the last, and nothing dropped yet."""
        sinks = self.sinks.extended(k, v, key_mask, self.tokens)
        all_k, all_v = torch.cat([self.k, k], dim=2), torch.cat([self.v, v], dim=2)
        mask = torch.cat([self.key_mask, key_mask], dim=1)
        return WindowState(all_k, all_v, mask, sinks, self.beyond, self.tokens + k.shape[2])

    def leaving(self, window: Window, key_map: LogFeatureMap) -> tuple[LogKeyFeatures, Values]:
        """Log-features and values of the tokens that a full window has no room for; -inf for those of no account."""
        assert self.beyond is not None
        number = max(0, self.k.shape[2] - window.size)
        dtype = self.beyond.kv.dtype
        log_k = key_map.log_features(self.k[:, :, :number].to(dtype), self.first)
        at = torch.arange(self.first, self.first + number, device=self.k.device)
        # Sinks are softmax's wherever they lie.
        is_sink = (self.sinks.found[:, :, None] & (self.sinks.at[:, :, None] == at)).any(dim=1)
        hidden = ~self.key_mask[:, :number] | is_sink
        return log_k.masked_fill(hidden[:, None, :, None], -torch.inf), self.v[:, :, :number].to(dtype)

    def trimmed(self, window: Window, left: tuple[LogKeyFeatures, Values] | None) -> "WindowState":
        """Only what the window holds; `left` is what `leaving` said, None where nothing beyond is attended to."""
        beyond = self.beyond if left is None or self.beyond is None else _added(self.beyond, *left)
        number = max(0, self.k.shape[2] - window.size)
        # Copies: views would keep all tokens in memory.
        k, v, key_mask = self.k[:, :, number:].clone(), self.v[:, :, number:].clone(), self.key_mask[:, number:].clone()
        return WindowState(k, v, key_mask, self.sinks, beyond, self.tokens)


def following(
    state: WindowState | None,
    q: Queries,
    k: Keys,
    v: Values,
    key_mask: KeyMask,
    window: Window,
    key_map: LogFeatureMap | None,
) -> WindowState:
    """The state (None: that before any token) with new tokens after the last, and nothing dropped yet.

    Raises:
        ValueError: if there are more keys than queries, or the state is that of another layer or batch.
    """
    if q.shape[2] != k.shape[2]:
        raise ValueError(f"q must have as many tokens as k ({k.shape[2]}) to resume, got {q.shape[2]}")
    if state is None:
        state = WindowState.empty(k, v, window, key_map)
    else:
        state.check(k, v, window, key_map)
    return state.extended(k, v, key_mask)


def _added(state: LinearState, log_k: LogKeyFeatures, v: Values) -> LinearState:
    """The sums with more tokens, under the largest exponents so far."""
    assert state.shift is not None
    if log_k.shape[2] == 0:
        return state
    shift = torch.maximum(state.shift, log_k.amax(dim=2, keepdim=True))
    fading = (state.shift - finite(shift)).exp()[:, :, 0]
    phi = (log_k - finite(shift)).exp()
    kv = state.kv * fading[..., None] + phi.mT @ v
    return LinearState(kv, state.k * fading + phi.sum(dim=2), shift, state.tokens + log_k.shape[2])
