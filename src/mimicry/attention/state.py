"""What attention remembers of the tokens it has seen: an explicit value of constant size."""

from dataclasses import dataclass, replace
from typing import Any, Protocol, runtime_checkable

import torch
from torch import Tensor

from mimicry.shapes import KeyMask, Keys, KeyState, KVState, Outputs, PerFeature, Queries, Values


class AttentionState(Protocol):
    """What every state can tell and do, whatever it consists of."""

    @property
    def tokens(self) -> int:
        """How many tokens were seen, padding included."""

    @property
    def batch_size(self) -> int:
        """Rows of the batch."""

    @property
    def nbytes(self) -> int:
        """Memory in bytes."""

    def reorder(self, rows: Tensor) -> "AttentionState":
        """The state of other batch rows, repeated or left out as `rows` (integers, one dimension) says."""


@runtime_checkable
class Resumable(Protocol):
    """Causal attention that can go on from a state instead of all earlier keys and values.

    The outputs of `forward` over a text are those of `forward` over its beginning, then of `resume` over the rest.
    States are never written to, and an old one is still good, but where `overwrite` gives it away.
    """

    def absorb(self, k: Keys, v: Values, key_mask: KeyMask | None = None) -> Any:
        """The state after the first tokens of a text; no gradients."""

    def resume(
        self,
        q: Queries,
        k: Keys,
        v: Values,
        state: Any = None,
        key_mask: KeyMask | None = None,
        overwrite: bool = False,
    ) -> tuple[Outputs, Any]:
        """Outputs of the tokens that follow those in `state`, and the state after them; no gradients.

        With `overwrite` the memory of `state` may become that of the new one, and `state` is lost.
        """


@dataclass(frozen=True)
class LinearState:
    """Sums over the keys seen so far, always float32 (or float64).

    A value, not a buffer: pass the state of one call to the next, keep an old one to go back to it, reorder its rows
    for beam search, or write its `tensors()` to disk.

    Args:
        kv: sum of phi(k) v^T, each feature divided by exp(shift).
        k: sum of phi(k), divided alike.
        shift: exponent taken out of each feature, -inf where no key was seen; None while plain features serve.
        tokens: how many tokens were seen, padding included: the position of the next one.
    """

    kv: KVState
    k: KeyState
    shift: PerFeature | None
    tokens: int

    @property
    def batch_size(self) -> int:
        """Rows of the batch."""
        return self.kv.shape[0]

    @property
    def nbytes(self) -> int:
        """Memory of the state in bytes; it does not grow with tokens."""
        return sum(tensor.nbytes for tensor in (self.kv, self.k, self.shift) if tensor is not None)

    def reorder(self, rows: Tensor) -> "LinearState":
        """The state of other batch rows, repeated or left out as `rows` (integers, one dimension) says."""
        rows = rows.to(self.kv.device)
        shift = None if self.shift is None else self.shift.index_select(0, rows)
        return replace(self, kv=self.kv.index_select(0, rows), k=self.k.index_select(0, rows), shift=shift)

    def with_shift(self) -> "LinearState":
        """The same state with its shift written out."""
        if self.shift is not None:
            return self
        # Where no key was visible there is nothing to keep in scale, and the next key sets the shift.
        return replace(self, shift=torch.zeros_like(self.k).masked_fill_(self.k == 0, -torch.inf)[:, :, None])

    def tensors(self) -> dict[str, Tensor]:
        """Everything as tensors, for `torch.save` or safetensors; `LinearState.load` is the inverse."""
        found = {"kv": self.kv, "k": self.k, "tokens": torch.tensor(self.tokens)}
        return found if self.shift is None else found | {"shift": self.shift}

    @classmethod
    def load(cls, tensors: dict[str, Tensor]) -> "LinearState":
        """The state that `tensors()` was called on.

        Raises:
            ValueError: if a tensor is missing.
        """
        missing = [name for name in ("kv", "k", "tokens") if name not in tensors]
        if missing:
            raise ValueError(f"tensors must hold all of a LinearState, missing {', '.join(missing)}")
        return cls(tensors["kv"], tensors["k"], tensors.get("shift"), int(tensors["tokens"]))
