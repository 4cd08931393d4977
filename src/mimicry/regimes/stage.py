"""One step of a procedure, and what a procedure is."""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import ClassVar, Protocol, runtime_checkable

import lightning as L
from torch import nn

from mimicry.attention import Attention
from mimicry.training.budget import Budget, BudgetGrid
from mimicry.training.distillation import DistillationModule
from mimicry.training.task import TaskModule


@dataclass(frozen=True)
class Stage:
    """What to train, how long, and the model whose state is measured afterwards.

    Args:
        name: `teach`, `donor`, `convert`, `distill`, `recover` or `train`; also the key of its budget in the config.
        about: what happens, for the log.
        state: what the measured model is called in tables, such as `no_train`.
        model: measured after the stage.
        module: builds what trains `model` in place, called with `learning_rate`; None when the stage only prepares it.
        candidates: budgets to choose among; empty without `module`.
        patience: epochs without a better held-out score after which training stops, with the best epoch's weights;
            None trains all epochs.
    """

    name: str
    about: str
    state: str
    model: nn.Module
    module: Callable[..., L.LightningModule] | None = None
    candidates: tuple[Budget, ...] = ()
    patience: int | None = None


# At runtime too, because tests check arguments against their annotations.
@runtime_checkable
class Regime(Protocol):
    """A procedure of the paper as an ordered list of stages.

    Attributes:
        holdout_rows: training rows set aside, >= 1, on which a stage with several candidates chooses.
        modalities: kinds of models it is for, of `text`, `image`, `language` and `native`.
    """

    holdout_rows: int
    modalities: ClassVar[tuple[str, ...]]

    @property
    def grids(self) -> Mapping[str, BudgetGrid]:
        """The budgets of the stages that train, by the stage's name."""

    def stages(
        self,
        model: nn.Module,
        attention: Callable[..., Attention],
        task_module: Callable[..., TaskModule],
        distillation_module: Callable[..., DistillationModule],
    ) -> Iterator[Stage]:
        """The procedure in order; each stage starts from the weights the previous one left."""


def chooses(regime: Regime) -> bool:
    """Whether rows must be held out: a stage has more than one candidate, or stops when it gets no better."""
    stops = getattr(regime, "patience", None) is not None
    return stops or any(len(grid.candidates) > 1 for grid in regime.grids.values())


def check_holdout(rows: int) -> None:
    """Raises ValueError unless at least one row is set aside."""
    if rows < 1:
        raise ValueError(f"regime.holdout_rows must be >= 1, got {rows}")
