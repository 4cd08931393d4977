"""The inputs of one call, and the sizes that follow from them."""

from dataclasses import dataclass
from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor

from mimicry.attention.triton.tiles import Plan, Tiles

# The interpreter runs on any machine, but multiplies bfloat16 numbers as integers: there, products are in float32.
INTERPRETED = bool(triton.knobs.runtime.interpret)
DTYPES = {torch.float32: tl.float32, torch.float16: tl.float16, torch.bfloat16: tl.bfloat16}


@dataclass(frozen=True)
class Problem:
    """Inputs as the kernels take them; no gradient flows through mask and shift."""

    q: Tensor
    k: Tensor
    v: Tensor
    query_weight: Tensor
    query_bias: Tensor | None
    key_weight: Tensor
    key_bias: Tensor | None
    key_mask: Tensor | None
    key_shift: Tensor | None
    causal: bool
    eps: float
    plan: Plan

    @property
    def heads(self) -> int:
        """Heads of all examples."""
        return self.q.shape[0] * self.q.shape[1]

    @property
    def value_dim(self) -> int:
        return self.v.shape[3]

    @property
    def state_size(self) -> int:
        """Numbers in one state: 2 num_features x (value_dim + 1)."""
        return 2 * self.key_weight.shape[1] * (self.value_dim + 1)

    @property
    def segment(self) -> int:
        """Tokens per program; the same forward and backward, which share the states between segments."""
        programs = self.heads * self.tiles(self.plan.forward)
        return self.plan.segment_length(programs, max(self.q.shape[2], self.k.shape[2]), self.q.device)

    def segments(self, tokens: int) -> int:
        return max(-(-tokens // self.segment), 1)

    def tiles(self, tiles: Tiles) -> int:
        """Tiles the values are cut in."""
        return self.value_dim // min(tiles.value_tile, self.value_dim)

    def options(self, tiles: Tiles) -> dict[str, Any]:
        """What the kernels are compiled for."""
        dtype = DTYPES[self.q.dtype]
        return {
            "HEADS": self.q.shape[1],
            "MAP_HEADS": self.query_weight.shape[0],
            "WIDTH": self.q.shape[3],
            "FEATURES": self.query_weight.shape[1],
            "VALUE": self.value_dim,
            "TILE": min(tiles.value_tile, self.value_dim),
            "CHUNK": tiles.chunk,
            "INPUT": tl.float32 if INTERPRETED else dtype,
            # Features outgrow float16.
            "OPERAND": tl.float32 if INTERPRETED or dtype == tl.float32 else tl.bfloat16,
            "num_warps": tiles.num_warps,
            "num_stages": tiles.num_stages,
        }
