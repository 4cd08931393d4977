"""How much training one stage gets, and which settings it may choose among."""

import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Budget:
    """Training budget of one stage.

    Args:
        epochs: passes over the stage's rows, >= 1.
        learning_rate: peak learning rate, > 0.
        batch_size: rows per step, >= 1.
        max_rows: use at most so many training rows, drawn by the seed, >= 1; None uses all.
    """

    epochs: int
    learning_rate: float
    batch_size: int
    max_rows: int | None = None


@dataclass(frozen=True)
class BudgetGrid:
    """The budgets a stage may choose among: every combination of the listed epochs and learning rates.

    Args:
        epochs: passes over the stage's rows, >= 1, or several to choose among; 0 alone skips the stage.
        learning_rate: peak learning rate, > 0, or several to choose among.
        batch_size: rows per step, >= 1.
        max_rows: use at most so many training rows, drawn by the seed, >= 1; None uses all.

    Raises:
        ValueError: if a value is out of its range, or a list is empty or repeats a value.
    """

    epochs: int | list[int]
    learning_rate: float | list[float]
    batch_size: int
    max_rows: int | None = None

    def __post_init__(self) -> None:
        epochs, rates = _choices("epochs", self.epochs), _choices("learning_rate", self.learning_rate)
        lowest = 0 if len(epochs) == 1 else 1
        if min(epochs) < lowest:
            raise ValueError(f"epochs must be >= {lowest}, got {min(epochs)}")
        if bad := [rate for rate in rates if not 0 < rate < math.inf]:
            raise ValueError(f"learning_rate must be > 0 and finite, got {bad[0]}")
        if self.batch_size < 1:
            raise ValueError(f"batch_size must be >= 1, got {self.batch_size}")
        if self.max_rows is not None and self.max_rows < 1:
            raise ValueError(f"max_rows must be >= 1, got {self.max_rows}")

    @property
    def candidates(self) -> tuple[Budget, ...]:
        """The budgets to choose among; one when there is nothing to choose, none when the stage is skipped."""
        grid = itertools.product(_choices("epochs", self.epochs), _choices("learning_rate", self.learning_rate))
        return tuple(Budget(epochs, rate, self.batch_size, self.max_rows) for epochs, rate in grid if epochs > 0)


def _choices(name: str, value: int | float | Sequence[int | float]) -> tuple[Any, ...]:
    choices = (value,) if isinstance(value, int | float) else tuple(value)
    if not choices or len(set(choices)) != len(choices):
        raise ValueError(f"{name} must be a value or a list of different values, got {value}")
    return choices
