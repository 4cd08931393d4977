"""Training on a task's own loss, for softmax teachers and converted students alike."""

from collections.abc import Callable
from typing import Any

import lightning as L
import torch
import torch.distributed
from torch import Tensor, nn
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler

from mimicry.attention.feature_maps.base import FeatureMap
from mimicry.data.batches import model_inputs
from mimicry.ranks import have_met
from mimicry.training.metrics import Scores
from mimicry.training.optimization import lightning_optimizers


class TaskModule(L.LightningModule):
    """Trains whatever weights of a model require gradients on its task's loss, and measures it.

    Args:
        model: a classifier, regressor or language model as Hugging Face builds them: takes its inputs and `labels`;
            returns loss and logits.
        stage: prefix of logged keys, such as `teach/loss`.
        scores: computed over the validation rows, logged as `val/<name>`.
        optimizer: called with parameters and `lr`.
        scheduler: called with the optimizer and `total_steps`.
        learning_rate: peak learning rate.
    """

    def __init__(
        self,
        model: nn.Module,
        stage: str,
        scores: Scores,
        optimizer: Callable[..., Optimizer],
        scheduler: Callable[..., LRScheduler],
        learning_rate: float,
    ) -> None:
        super().__init__()
        self.model = model
        self.stage = stage
        self.scores = scores
        self.optimizer = optimizer
        self.scheduler = scheduler
        self.learning_rate = learning_rate

    def on_train_start(self) -> None:
        # Host models load in evaluation mode and Lightning keeps the mode it finds: without this no dropout is applied.
        self.model.train()

    def on_train_batch_start(self, batch: dict[str, Tensor], batch_idx: int) -> None:
        for module in self.model.modules():
            if isinstance(module, FeatureMap):
                module.before_step(self.global_step)

    def training_step(self, batch: dict[str, Tensor], batch_idx: int) -> Tensor:
        loss: Tensor = self.model(**model_inputs(batch), labels=batch["labels"]).loss
        refuse_divergence(loss, self.stage, self.global_step)
        self.log(f"{self.stage}/loss", loss, prog_bar=True)
        return loss

    def on_validation_epoch_start(self) -> None:
        # What measuring in inference mode has left behind takes no further sums outside of it.
        self.scores.reset()

    def validation_step(self, batch: dict[str, Tensor], batch_idx: int) -> None:
        self.scores.update(self.model, batch)

    def on_validation_epoch_end(self) -> None:
        self.log_dict({f"val/{name}": value for name, value in self.scores.compute().items()})
        self.scores.reset()

    def configure_optimizers(self) -> dict[str, Any]:
        steps = int(self.trainer.estimated_stepping_batches)
        return lightning_optimizers(self.optimizer, self.scheduler, self.model.parameters(), self.learning_rate, steps)


def refuse_divergence(loss: Tensor, stage: str, step: int) -> None:
    """Raises FloatingPointError when the loss is no longer finite: everything after it would be noise.

    Processes that train together raise together: one that went on would wait for the others for ever.
    """
    finite = torch.isfinite(loss).all()
    if have_met():
        everywhere = finite.int()
        torch.distributed.all_reduce(everywhere, torch.distributed.ReduceOp.MIN)
        finite = everywhere.bool()
    if not finite:
        raise FloatingPointError(
            f"{stage}: loss is {loss.item()} at step {step}; "
            f"lower learning_rate (of a run: regime.{stage}.learning_rate) or change attn"
        )
