"""What linear attention remembers of the tokens it has seen: an explicit value of constant size."""

from dataclasses import dataclass, replace

import torch
from torch import Tensor

from mimicry.shapes import KeyState, KVState, PerFeature


@dataclass(frozen=True)
class LinearState:
    """Sums over the keys seen so far, each feature of a key divided by exp(shift): always float32 (or float64).

    A value, not a buffer: pass the state of one call to the next, keep an old one to go back to it, reorder its rows
    for beam search, or write its `tensors()` to disk.

    Args:
        kv: sum of phi(k) v^T.
        k: sum of phi(k).
        shift: exponent taken out of each feature; -inf where no key was seen, 0 for maps that are no exponentials.
        tokens: how many tokens were seen, padding included: the position of the next one.
    """

    kv: KVState
    k: KeyState
    shift: PerFeature
    tokens: int

    @property
    def nbytes(self) -> int:
        """Memory of the state in bytes, the same after any number of tokens."""
        return sum(tensor.nbytes for tensor in (self.kv, self.k, self.shift))

    def reorder(self, rows: Tensor) -> "LinearState":
        """The state of other batch rows, repeated or left out as `rows` (integers, one dimension) says."""
        kv, k, shift = (tensor.index_select(0, rows) for tensor in (self.kv, self.k, self.shift))
        return replace(self, kv=kv, k=k, shift=shift)

    def tensors(self) -> dict[str, Tensor]:
        """Everything as tensors, for `torch.save` or safetensors; `LinearState.load` is the inverse."""
        return {"kv": self.kv, "k": self.k, "shift": self.shift, "tokens": torch.tensor(self.tokens)}

    @classmethod
    def load(cls, tensors: dict[str, Tensor]) -> "LinearState":
        """The state that `tensors()` was called on.

        Raises:
            ValueError: if a tensor is missing.
        """
        missing = [name for name in ("kv", "k", "shift", "tokens") if name not in tensors]
        if missing:
            raise ValueError(
                f"tensors must hold kv, k, shift and tokens of a LinearState, missing {', '.join(missing)}"
            )
        return cls(tensors["kv"], tensors["k"], tensors["shift"], int(tensors["tokens"]))
