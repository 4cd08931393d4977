"""Memory that blocks of a computation write over again and again.

On CPUs memory fresh from the system costs about as much to touch as a block's arithmetic, so buffers are kept from one
call to the next; other devices have allocators that do this.
"""

import math
import threading

import torch
from torch import Tensor

# Buffers larger than this are given back after the call, bytes.
KEEP_BYTES = 16 * 2**20

_kept = threading.local()


class Scratch:
    """Named buffers of one dtype and device. What a name held is lost when the name is taken again."""

    def __init__(self, dtype: torch.dtype, device: torch.device, kept: dict[tuple[object, ...], Tensor]) -> None:
        self.dtype = dtype
        self.device = device
        self._kept = kept
        self._own: dict[tuple[object, ...], Tensor] = {}

    def take(self, name: str, *shape: int) -> Tensor:
        """An uninitialised tensor, the memory of the last one of that name where it fits."""
        size, key = math.prod(shape), (name, self.dtype, self.device)
        keep = self.device.type == "cpu" and size * self.dtype.itemsize <= KEEP_BYTES
        pool = self._kept if keep else self._own
        flat = pool.get(key)
        if flat is None or flat.numel() < size:
            # A buffer born in inference mode could not be written to outside it.
            with torch.inference_mode(mode=False):
                flat = pool[key] = torch.empty(size, dtype=self.dtype, device=self.device)
        return flat[:size].view(shape)


def scratch(dtype: torch.dtype, device: torch.device) -> Scratch:
    """This thread's scratch memory; buffers of different names never overlap."""
    if not hasattr(_kept, "buffers"):
        _kept.buffers = {}
    return Scratch(dtype, device, _kept.buffers)
