"""What an operation allocates, seen from outside."""

import weakref
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves


class LargestTensor(TorchDispatchMode):
    """Inside the block, counts the elements of the largest tensor any operation made, and of all of them together.

    Attributes:
        largest: elements of the largest tensor.
        total: elements of all tensors.
        by_dtype: elements of the largest tensor of each dtype.
    """

    def __init__(self) -> None:
        super().__init__()
        self.largest, self.total = 0, 0
        self.by_dtype: dict[torch.dtype, int] = {}

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        for leaf in tree_leaves(result):
            if isinstance(leaf, Tensor):
                self.largest, self.total = max(self.largest, leaf.numel()), self.total + leaf.numel()
                self.by_dtype[leaf.dtype] = max(self.by_dtype.get(leaf.dtype, 0), leaf.numel())
        return result


class LivePeak(TorchDispatchMode):
    """Inside the block, follows the bytes of all tensors that operations made and that are still alive.

    Attributes:
        peak: the most bytes alive at one time; views share those of what they look at.
        live: bytes alive now.
    """

    def __init__(self) -> None:
        super().__init__()
        self.peak, self.live = 0, 0
        self._holders: dict[int, int] = {}
        self._known: set[int] = set()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        for leaf in tree_leaves(result):
            if isinstance(leaf, Tensor) and id(leaf) not in self._known:
                self._take(leaf)
        self.peak = max(self.peak, self.live)
        return result

    def _take(self, tensor: Tensor) -> None:
        storage = tensor.untyped_storage()
        place, size = storage._cdata, storage.nbytes()
        if place not in self._holders:
            self.live += size
        self._holders[place] = self._holders.get(place, 0) + 1
        self._known.add(id(tensor))
        weakref.finalize(tensor, self._leave, id(tensor), place, size)

    def _leave(self, tensor: int, place: int, size: int) -> None:
        self._known.discard(tensor)
        self._holders[place] -= 1
        if not self._holders[place]:
            del self._holders[place]
            self.live -= size
