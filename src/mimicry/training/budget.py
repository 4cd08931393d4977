"""How much training one stage gets."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Budget:
    """Training budget of one stage.

    Args:
        epochs: passes over the stage's rows, >= 0; 0 skips the stage.
        learning_rate: peak learning rate, > 0.
        batch_size: rows per step, >= 1.
        max_rows: use at most so many training rows, drawn by the seed, >= 1; None uses all.

    Raises:
        ValueError: if a value is out of its range.
    """

    epochs: int
    learning_rate: float
    batch_size: int
    max_rows: int | None = None

    def __post_init__(self) -> None:
        if self.epochs < 0:
            raise ValueError(f"epochs must be >= 0, got {self.epochs}")
        if not self.learning_rate > 0:
            raise ValueError(f"learning_rate must be > 0, got {self.learning_rate}")
        if self.batch_size < 1:
            raise ValueError(f"batch_size must be >= 1, got {self.batch_size}")
        if self.max_rows is not None and self.max_rows < 1:
            raise ValueError(f"max_rows must be >= 1, got {self.max_rows}")
