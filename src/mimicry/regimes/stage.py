"""One step of a procedure."""

from collections.abc import Callable
from dataclasses import dataclass

import lightning as L
from torch import nn

from mimicry.training.budget import Budget


@dataclass(frozen=True)
class Stage:
    """What to train, how long, and the model whose state is measured afterwards.

    Args:
        name: `teach`, `donor`, `convert`, `distill` or `recover`; also the key of its budget in the regime's config.
        about: what happens, for the log.
        state: what the measured model is called in tables, such as `no_train`.
        model: measured after the stage.
        module: builds what trains `model` in place, called with `learning_rate`; None when the stage only prepares it.
        candidates: budgets to choose among; empty without `module`.
    """

    name: str
    about: str
    state: str
    model: nn.Module
    module: Callable[..., L.LightningModule] | None = None
    candidates: tuple[Budget, ...] = ()
