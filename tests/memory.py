"""What an operation allocates, seen from outside."""

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
