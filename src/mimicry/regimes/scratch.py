"""Training from scratch: the attention is there from the first step, and nothing is imitated."""

import functools
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import ClassVar

from torch import nn

from mimicry.attention import Attention
from mimicry.regimes.stage import Stage, check_holdout
from mimicry.training.budget import BudgetGrid
from mimicry.training.distillation import DistillationModule
from mimicry.training.task import TaskModule


@dataclass(frozen=True)
class TrainFromScratch:
    """Train a model around any attention, end to end, on the task's loss. Source: arXiv 2402.04347, Sec. 5.1, 5.2.

    Args:
        train: the training; its epochs are the most that may be taken.
        holdout_rows: training rows set aside, >= 1, on which candidates are compared and stopping is decided; nothing
            trains on them, and the reported rows are never looked at. Without either none are set aside.
        patience: stop when the held-out score has not improved for so many epochs, >= 1, and keep the weights of the
            best epoch; null trains all epochs and keeps the last weights.

    Raises:
        ValueError: if a value is out of its range.
    """

    train: BudgetGrid
    holdout_rows: int = 500
    patience: int | None = None

    modalities: ClassVar[tuple[str, ...]] = ("native",)

    def __post_init__(self) -> None:
        check_holdout(self.holdout_rows)
        if self.patience is not None and self.patience < 1:
            raise ValueError(f"regime.patience must be >= 1 or null, got {self.patience}")
        if not self.train.candidates:
            raise ValueError("regime.train.epochs must be >= 1, got 0")

    @property
    def grids(self) -> dict[str, BudgetGrid]:
        """The budgets of the stages that train, by the stage's name."""
        return {"train": self.train}

    def stages(
        self,
        model: nn.Module,
        attention: Callable[..., Attention],
        task_module: Callable[..., TaskModule],
        distillation_module: Callable[..., DistillationModule],
    ) -> Iterator[Stage]:
        """One stage; the model was built around its attention."""
        module = functools.partial(task_module, model, "train")
        about = "train the model from random weights on the task"
        yield Stage("train", about, "trained", model, module, self.train.candidates, self.patience)
