"""Recurrent states inside the host library's cache, layer by layer beside its own growing keys and values."""

from typing import Any

import torch
from torch import Tensor
from transformers.cache_utils import Cache, CacheLayerMixin, DynamicLayer

from mimicry.attention import Attention
from mimicry.attention.state import AttentionState, Resumable
from mimicry.shapes import KeyMask, Keys, Outputs, Queries, Values

# The attribute by which the attention function finds the layer that a key tensor came through.
MARK = "mimicry_cache_layer"


class RecurrentLayer(CacheLayerMixin):  # type: ignore[misc]
    """Keeps the state of one converted attention where the host would keep all of its keys and values.

    The host library passes new keys and values through `update` on their way to the attention function. They are kept
    by neither; the function meets them again in `attend`, which is where the state moves on.

    Args:
        max_length: longest text in tokens the attention can honour; None when there is no limit.
    """

    is_sliding = False

    def __init__(self, max_length: int | None = None) -> None:
        super().__init__()
        self.state: AttentionState | None = None
        self._max_length = max_length
        self._expecting = False

    @property
    def nbytes(self) -> int:
        """Memory of the state in bytes; it does not grow with tokens."""
        return 0 if self.state is None else self.state.nbytes

    def expect(self) -> None:
        """Announces that a converted attention is about to run; nothing else may use this layer.

        Raises:
            ValueError: if the attention announced before never ran, so that its tokens are missing from the state.
        """
        if self._expecting:
            raise ValueError("past_key_values must be a new cache: an earlier call with this one did not finish")
        self._expecting = True

    def lazy_initialization(self, key_states: Tensor, value_states: Tensor) -> None:
        self.is_initialized = True

    def update(self, key_states: Tensor, value_states: Tensor, *args: Any, **kwargs: Any) -> tuple[Tensor, Tensor]:
        """New keys and values as they are, marked for `attend`.

        Raises:
            ValueError: if it is no converted attention that asks: it would see nothing but the new keys.
        """
        if not self._expecting:
            raise ValueError("past_key_values holds states of converted layers, which another attention cannot read")
        self.lazy_initialization(key_states, value_states)
        setattr(key_states, MARK, self)
        return key_states, value_states

    def attend(self, attention: Attention, q: Queries, k: Keys, v: Values, key_mask: KeyMask | None) -> Outputs:
        """Outputs of the new tokens after those in the state, which then holds them too; `key_mask` is over the new.

        Raises:
            ValueError: if gradients are to be recorded: a state passes none on.
        """
        assert isinstance(attention, Resumable)
        self._expecting = False
        if torch.is_grad_enabled() and (q.requires_grad or k.requires_grad or v.requires_grad):
            raise ValueError("past_key_values holds states, which record no gradients; use torch.no_grad()")
        if self.state is None:
            # As without a cache: the fastest form, seen by whoever watches the module.
            out: Outputs = attention(q, k, v, key_mask)
            self.state = attention.absorb(k, v, key_mask)
        else:
            out, self.state = attention.resume(q, k, v, self.state, key_mask, overwrite=True)
        return out

    def get_seq_length(self) -> int:
        return 0 if self.state is None else self.state.tokens

    def get_mask_sizes(self, query_length: int) -> tuple[int, int]:
        return self.get_seq_length() + query_length, 0

    def get_max_length(self) -> int:
        # The host's sign for no limit.
        return -1 if self._max_length is None else self._max_length

    def reset(self) -> None:
        self.state, self._expecting, self.is_initialized = None, False, False

    def reorder_cache(self, beam_idx: Tensor) -> None:
        if self.state is not None:
            self.state = self.state.reorder(beam_idx)

    def batch_repeat_interleave(self, repeats: int) -> None:
        if self.state is not None:
            self.state = self.state.reorder(torch.arange(self.state.batch_size).repeat_interleave(repeats))

    def batch_select_indices(self, indices: Tensor) -> None:
        if self.state is not None:
            self.state = self.state.reorder(torch.arange(self.state.batch_size)[indices.cpu()])

    def crop(self, tokens_to_remove: int) -> None:
        """Nothing to do for 0 tokens; ValueError for more."""
        if tokens_to_remove:
            raise ValueError(
                f"past_key_values cannot forget {abs(tokens_to_remove)} tokens: a recurrent state does not go back "
                "(assisted and contrastive decoding need that)"
            )

    def offload(self) -> None:
        """Stays where it is: a state is small."""

    def prefetch(self) -> None:
        """Was never moved."""


def prepare_layer(cache: Cache, index: int, attention: Attention) -> None:
    """Makes layer `index` of the cache ready for the next call of a converted attention.

    An empty layer of growing keys and values gives way to a recurrent one where the attention has a state and no
    gradients are recorded. Attention without a state, calls that record gradients, and layers that hold keys already
    go on with all keys and values: slower with every token, but as exact.

    Raises:
        ValueError: if the layer neither keeps a state nor the keys of all tokens, or its last call failed.
    """
    while cache.layer_class_to_replicate is not None and len(cache.layers) <= index:
        cache.layers.append(cache.layer_class_to_replicate())
    layer = cache.layers[index]
    if isinstance(layer, RecurrentLayer):
        if not isinstance(attention, Resumable):
            raise ValueError(f"past_key_values holds a state in layer {index}, {type(attention).__name__} has none")
        layer.expect()
        return
    empty = isinstance(layer, DynamicLayer) and layer.get_seq_length() == 0
    if not isinstance(layer, DynamicLayer) or (layer.is_sliding and not empty):
        raise ValueError(
            f"past_key_values must be a DynamicCache, the default of generate, for converted attention; "
            f"layer {index} of this one is a {type(layer).__name__}"
        )
    if empty and isinstance(attention, Resumable) and not torch.is_grad_enabled():
        cache.layers[index] = RecurrentLayer(attention.max_length)
        cache.layers[index].expect()
    elif layer.is_sliding:
        # A host with a window drops keys beyond it; converted models refuse such texts rather than drop any.
        cache.layers[index] = DynamicLayer()


def layer_of(key: Tensor) -> RecurrentLayer | None:
    """The recurrent layer that these new keys came through; None for keys that are the whole history."""
    found: RecurrentLayer | None = getattr(key, MARK, None)
    return found
