"""Optimizer and learning-rate schedule of a stage."""

from collections.abc import Callable, Iterable
from typing import Any, Literal

import transformers
from torch.nn import Parameter
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler


def warmup_schedule(
    optimizer: Optimizer,
    total_steps: int,
    decay: Literal["linear", "cosine"] = "linear",
    warmup: float = 0.1,
    floor: float = 0.0,
) -> LRScheduler:
    """Linear warm-up from 0 to the peak, then linear or cosine decay to the floor at the last step.

    Args:
        optimizer: carries the peak learning rate.
        total_steps: steps of the stage.
        decay: shape after the warm-up.
        warmup: share of steps spent warming up, in [0, 1).
        floor: share of the peak at which a cosine ends, in [0, 1); a line ends at 0.

    Raises:
        ValueError: if warmup, decay or floor is out of range.
    """
    if not 0 <= warmup < 1:
        raise ValueError(f"warmup must be in [0, 1), got {warmup}")
    if decay not in ("linear", "cosine"):
        raise ValueError(f"decay must be linear or cosine, got {decay!r}")
    if not 0 <= floor < 1:
        raise ValueError(f"floor must be in [0, 1), got {floor}")
    if floor and decay == "linear":
        raise ValueError(f"floor must be 0 where decay is linear, got {floor}")
    steps = {"num_warmup_steps": round(warmup * total_steps), "num_training_steps": total_steps}
    if decay == "linear":
        return transformers.get_scheduler("linear", optimizer, **steps)
    return transformers.get_cosine_with_min_lr_schedule_with_warmup(optimizer, **steps, min_lr_rate=floor)


def lightning_optimizers(
    optimizer: Callable[..., Optimizer],
    scheduler: Callable[..., LRScheduler],
    parameters: Iterable[Parameter],
    learning_rate: float,
    total_steps: int,
) -> dict[str, Any]:
    """What `configure_optimizers` returns: an optimizer over trainable parameters and a schedule stepped per batch."""
    built = optimizer([p for p in parameters if p.requires_grad], lr=learning_rate)
    return {
        "optimizer": built,
        "lr_scheduler": {"scheduler": scheduler(built, total_steps=total_steps), "interval": "step"},
    }
