"""Attention distillation: feature maps learn softmax's own weights, all layers in one pass."""

import logging
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import lightning as L
import torch
from torch import Tensor, nn
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler

from mimicry.attention import Attention, LinearAttention, SoftmaxAttention
from mimicry.attention.capture import Captured, attention_layers, capture
from mimicry.data.batches import model_inputs
from mimicry.objectives import soft_cross_entropy, soft_cross_entropy_of_logs, streamed_soft_cross_entropy
from mimicry.shapes import Scalar
from mimicry.training.optimization import lightning_optimizers
from mimicry.training.task import refuse_divergence

logger = logging.getLogger(__name__)

# From as many keys on, the loss is streamed. On one CPU thread it is as fast as stored weights at 128 tokens or faster,
# 1.6 to 2.4 times as fast at 256. Elsewhere it is for its memory: its many small operations were not timed there.
STREAMED_TOKENS, STREAMED_TOKENS_ON_ACCELERATORS = 128, 1024


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
        self.told = False

    def on_train_start(self) -> None:
        # Lightning keeps the mode it finds; in evaluation mode an ablated hybrid would not train what it leaves out.
        self.students.train()

    def training_step(self, batch: dict[str, Tensor], batch_idx: int) -> Tensor:
        teachers = attention_layers(self.teacher)
        *_, last = teachers.values()
        with torch.no_grad(), capture(self.teacher) as captured, _ending_at(last):
            self.teacher(**model_inputs(batch))
        losses, entropies = [], []
        for name, student in zip(self.names, self.students, strict=True):
            loss, entropy = self._losses(teachers[name], student, captured[name])
            losses.append(loss)
            entropies.append(entropy)
        loss = torch.stack(losses).mean()
        refuse_divergence(loss, self.stage, self.global_step)
        self.log("distill/soft_xent", loss)
        self.log("distill/kl", loss.detach() - torch.stack(entropies).mean(), prog_bar=True)
        return loss

    def _losses(self, teacher: Attention, student: Attention, seen: Captured) -> tuple[Scalar, Scalar]:
        """One layer's loss, and the least value it can reach, its teacher's entropy."""
        fewest = STREAMED_TOKENS if seen.k.device.type == "cpu" else STREAMED_TOKENS_ON_ACCELERATORS
        is_long = seen.k.shape[2] >= fewest
        if is_long and isinstance(teacher, SoftmaxAttention) and isinstance(student, LinearAttention):
            features = student.features(seen.q, seen.k, seen.key_mask)
            if features is not None:
                masks = (seen.key_mask, seen.key_mask)
                return streamed_soft_cross_entropy(seen.q, seen.k, *features, student.dims.causal, *masks)
            if not self.told:
                self.told = True
                logger.info("distill: exponents of keys grow too far for one pass, so weights of all pairs are stored")
        with torch.no_grad():
            target = teacher.weights(seen.q, seen.k, seen.key_mask)
            # Against itself it is the entropy, the least the student can reach.
            entropy = soft_cross_entropy(target, target, seen.key_mask)
        log_weights = student.log_weights(seen.q, seen.k, seen.key_mask)
        return soft_cross_entropy_of_logs(target, log_weights, seen.key_mask), entropy

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
