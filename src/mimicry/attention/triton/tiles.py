"""How the kernels cut their work: one table of tile sizes per GPU pass, and segments that fill the chip."""

from dataclasses import dataclass

import torch

# Programs per multiprocessor that are asked for before a sequence is left in one piece.
PROGRAMS_PER_MULTIPROCESSOR = 2


@dataclass(frozen=True)
class Tiles:
    """Sizes of one pass.

    Args:
        chunk: tokens per chunk, a power of two >= 16.
        value_tile: value columns per program, a power of two >= 16; wider values take several programs.
        num_warps: warps per program.
        num_stages: depth of the software pipeline over chunks.
    """

    chunk: int
    value_tile: int
    num_warps: int
    num_stages: int


@dataclass(frozen=True)
class Plan:
    """Tiles of both passes.

    Args:
        forward: of the states and the outputs.
        backward: of the gradients.
        segment: tokens per program, a multiple of both chunks; None for as many as fill the chip.

    Raises:
        ValueError: if the segment is not such a multiple.
    """

    forward: Tiles
    backward: Tiles
    segment: int | None = None

    def __post_init__(self) -> None:
        if self.segment is not None and (self.segment < 1 or self.segment % self.step):
            raise ValueError(f"segment must be a positive multiple of {self.step} tokens, got {self.segment}")

    @property
    def step(self) -> int:
        """Tokens of the larger chunk, which the smaller one divides."""
        return max(self.forward.chunk, self.backward.chunk)

    def segment_length(self, programs: int, tokens: int, device: torch.device) -> int:
        """Tokens per segment when every segment is worked on by `programs` programs."""
        if self.segment is not None:
            return self.segment
        multiprocessors = torch.cuda.get_device_properties(device).multi_processor_count if device.type == "cuda" else 1
        segments = -(-multiprocessors * PROGRAMS_PER_MULTIPROCESSOR // max(programs, 1))
        return max(-(-tokens // (segments * self.step)), 1) * self.step


# By the widest of head_dim, num_features and value width. Chosen for an H100 by what the compiler reports
# (benchmarks/kernels.py): what is live should fit into registers, as spilled it takes more traffic than the inputs do.
# float32 products take three times the operands: nothing wider than 64 fits.
H100 = {
    16: Plan(Tiles(64, 16, 4, 3), Tiles(64, 16, 4, 2)),
    32: Plan(Tiles(64, 32, 4, 3), Tiles(32, 32, 8, 1)),
    64: Plan(Tiles(32, 64, 4, 2), Tiles(32, 64, 8, 1)),
    128: Plan(Tiles(32, 64, 8, 2), Tiles(16, 32, 8, 1)),
}
H100_FLOAT32 = {
    16: Plan(Tiles(32, 16, 4, 1), Tiles(16, 16, 4, 1)),
    32: Plan(Tiles(16, 32, 4, 1), Tiles(32, 32, 4, 1)),
    64: Plan(Tiles(16, 32, 8, 1), Tiles(16, 32, 8, 1)),
}


def default_plan(widest: int, dtype: torch.dtype, device: torch.device) -> Plan:
    """The table's plan.

    Raises:
        ValueError: if there is none, which is so for wide float32 on a GPU.
    """
    table = H100_FLOAT32 if dtype == torch.float32 and device.type == "cuda" else H100
    if widest not in table:
        raise ValueError(f"head_dim, num_features and value width must be one of {(*table,)} in {dtype}, got {widest}")
    return table[widest]
