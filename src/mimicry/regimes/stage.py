"""One step of a procedure."""

from dataclasses import dataclass

import lightning as L
from torch import nn

from mimicry.training.budget import Budget


@dataclass(frozen=True)
class Stage:
    """What to train, how long, and the model whose state is measured afterwards.

    Args:
        name: `teach`, `convert`, `distill` or `recover`; also the key of its budget in the regime's config.
        about: what happens, for the log.
        state: what the measured model is called in tables, such as `no_train`.
        model: measured after the stage.
        module: trains in place; None when the stage only prepares `model`.
        budget: of the training; None with `module`.
    """

    name: str
    about: str
    state: str
    model: nn.Module
    module: L.LightningModule | None = None
    budget: Budget | None = None
