"""Attention distillation: feature maps learn softmax's own weights, all layers in one pass."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import lightning as L
import torch
from torch import Tensor, nn
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler

from mimicry.attention.capture import attention_layers, capture
from mimicry.objectives import soft_cross_entropy, soft_cross_entropy_of_logs
from mimicry.training.optimization import lightning_optimizers
from mimicry.training.task import refuse_divergence


class DistillationModule(L.LightningModule):
    """Teacher-forced distillation of feature maps.

    The teacher runs alone, in evaluation mode and without gradient; each of its layers hands q and k to the student's
    layer of the same name, whose weights are compared with the teacher's. So errors of one layer never reach the next,
    each loss touches only its own maps, and nothing but the maps can train. Source: arXiv 2402.04347, Sec. 4.2.

    Args:
        teacher: a canonicalised softmax model.
        student: a converted copy of it; its attentions' parameters are what trains, in place.
        optimizer: called with parameters and `lr`.
        scheduler: called with the optimizer and `total_steps`.
        learning_rate: peak learning rate.
    """

    stage = "distill"

    def __init__(
        self,
        teacher: nn.Module,
        student: nn.Module,
        optimizer: Callable[..., Optimizer],
        scheduler: Callable[..., LRScheduler],
        learning_rate: float,
    ) -> None:
        super().__init__()
        self.teacher = teacher.requires_grad_(False).eval()
        self.names = list(attention_layers(student))
        self.students = nn.ModuleList(attention_layers(student).values())
        self.optimizer = optimizer
        self.scheduler = scheduler
        self.learning_rate = learning_rate

    def on_train_start(self) -> None:
        # Lightning keeps the mode it finds; in evaluation mode an ablated hybrid would not train what it leaves out.
        self.students.train()

    def training_step(self, batch: dict[str, Tensor], batch_idx: int) -> Tensor:
        inputs = {name: value for name, value in batch.items() if name != "labels"}
        teachers = attention_layers(self.teacher)
        *_, last = teachers.values()
        with torch.no_grad(), capture(self.teacher) as captured, _ending_at(last):
            self.teacher(**inputs)
        losses, entropies = [], []
        for name, student in zip(self.names, self.students, strict=True):
            seen = captured[name]
            with torch.no_grad():
                target = teachers[name].weights(seen.q, seen.k, seen.key_mask)
                # Against itself it is the entropy, the least the student can reach.
                entropies.append(soft_cross_entropy(target, target, seen.key_mask))
            log_weights = student.log_weights(seen.q, seen.k, seen.key_mask)
            losses.append(soft_cross_entropy_of_logs(target, log_weights, seen.key_mask))
        loss = torch.stack(losses).mean()
        refuse_divergence(loss, self.stage, self.global_step)
        self.log("distill/soft_xent", loss)
        self.log("distill/kl", loss.detach() - torch.stack(entropies).mean(), prog_bar=True)
        return loss

    def configure_optimizers(self) -> dict[str, Any]:
        steps = int(self.trainer.estimated_stepping_batches)
        return lightning_optimizers(
            self.optimizer, self.scheduler, self.students.parameters(), self.learning_rate, steps
        )


class _EndedError(Exception):
    """Unwinds a forward pass of which nothing more is needed."""


@contextmanager
def _ending_at(layer: nn.Module) -> Iterator[None]:
    """Inside the block, a forward pass ends where it reaches `layer`, after the hooks that `layer` had already."""

    def end(*_: Any) -> None:
        raise _EndedError

    handle = layer.register_forward_pre_hook(end)
    try:
        yield
    except _EndedError:
        pass
    finally:
        handle.remove()
