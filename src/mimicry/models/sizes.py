"""The sizes and choices that a decoder and an encoder share."""

from dataclasses import dataclass
from typing import Literal, get_args

Positions = Literal["rotary", "learnt"]


@dataclass(frozen=True)
class TransformerSizes:
    """What a user chooses about a transformer; vocabulary and length come with the task.

    Args:
        num_layers: blocks, >= 1.
        hidden_size: width of the residual stream, a multiple of num_heads.
        num_heads: heads of each attention, >= 1.
        mlp_size: hidden units of each block's MLP, >= 1; GPT-2 has 4 * hidden_size.
        positions: "rotary" turns queries and keys by their position (heads of even width), "learnt" adds a vector per
            position to the embeddings.
        dropout: of embeddings and of what each block adds, in [0, 1). Attention weights are never dropped, since a
            linear attention forms none.
        init_std: standard deviation of the initial weights, > 0; GPT-2's by default.

    Raises:
        ValueError: if a value is out of its range.
    """

    num_layers: int
    hidden_size: int
    num_heads: int
    mlp_size: int
    positions: Positions = "rotary"
    dropout: float = 0.0
    init_std: float = 0.02

    def __post_init__(self) -> None:
        for name in ("num_layers", "hidden_size", "num_heads", "mlp_size"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be >= 1, got {getattr(self, name)}")
        if self.hidden_size % self.num_heads:
            raise ValueError(f"hidden_size must be a multiple of num_heads = {self.num_heads}, got {self.hidden_size}")
        if self.positions not in get_args(Positions):
            raise ValueError(f"positions must be one of {', '.join(get_args(Positions))}, got {self.positions!r}")
        if self.positions == "rotary" and self.head_dim % 2:
            raise ValueError(
                f"hidden_size / num_heads must be even with rotary positions, got {self.hidden_size} / {self.num_heads}"
            )
        if not 0 <= self.dropout < 1:
            raise ValueError(f"dropout must be in [0, 1), got {self.dropout}")
        if self.init_std <= 0:
            raise ValueError(f"init_std must be > 0, got {self.init_std}")

    @property
    def head_dim(self) -> int:
        """Width of one head."""
        return self.hidden_size // self.num_heads


def check_at_least(name: str, value: int, least: int) -> None:
    """Refuse a value below `least` in the name of its argument."""
    if value < least:
        raise ValueError(f"{name} must be >= {least}, got {value}")
