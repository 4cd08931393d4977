"""Distillation in one call: what `mimicry.distill` does."""

import functools
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from numbers import Integral, Real
from typing import Any, Literal, get_args

import lightning as L
from torch import Tensor, nn
from torch.optim import AdamW
from torch.utils.data import DataLoader

from mimicry.attention import SoftmaxAttention
from mimicry.attention.capture import attention_layers
from mimicry.conversion import canonicalise
from mimicry.objectives import DistillationObjectives
from mimicry.training.distillation import DistillationModule
from mimicry.training.optimization import warmup_schedule
from mimicry.training.progress import StageProgressBar, quietly

Precision = Literal["32-true", "bf16-mixed", "16-mixed"]
PRECISIONS = get_args(Precision)


@dataclass(frozen=True)
class DistillationResult:
    """What a distillation took and came to.

    Attributes:
        steps: of the optimizer.
        seconds: wall time of training.
        loss_first, loss_last: of the first and of the last batch.
        kl_first, kl_last: KL divergence of the student's attention from the teacher's on these batches, in nats, mean
            over converted layers, heads and queries; None without the objective `attention`.
    """

    steps: int
    seconds: float
    loss_first: float
    loss_last: float
    kl_first: float | None
    kl_last: float | None


def distill(
    student: nn.Module,
    teacher: nn.Module,
    dataloader: Iterable[Mapping[str, Tensor]],
    epochs: int = 1,
    learning_rate: float = 1.0e-2,
    objectives: DistillationObjectives | None = None,
    precision: Precision = "32-true",
    progress: bool = True,
) -> DistillationResult:
    """Trains the feature maps of a converted model to imitate softmax attention, in place, and nothing else.

        student = mimicry.convert(model, attn="hedgehog")
        mimicry.distill(student, model, dataloader)

    AdamW without weight decay, gradients clipped at norm 1, warm-up over a tenth of the steps and linear decay to 0; on
    an accelerator if there is one. Afterwards the student is in evaluation mode; which parameters of either model
    require gradients, the teacher's mode, and the device of both are as they were before, also when training fails.

    Args:
        student: from `mimicry.convert`; parameters of its attentions that require gradients train.
        teacher: the softmax model it was converted from, as it is or canonicalised; never changed.
        dataloader: batches as dicts of what the models take; `labels` are ignored. Must have a length.
        epochs: passes over the batches, >= 1.
        learning_rate: at its peak, > 0 and finite.
        objectives: what is minimised; None is the paper's cross-entropy of attention weights alone.
        precision: what products are computed in; weights stay as they are.
        progress: show a progress bar.

    Raises:
        ValueError: before any training: nothing to train in the student, a teacher of other layers or sizes or without
            softmax, no batches, batches that are no dicts, or arguments of the
            wrong type or out of range.
        FloatingPointError: if the loss is no longer finite.

    Source: arXiv 2402.04347, Sec. 4.2; the learning rate is the paper's for BERT and Llama.
    """
    if not isinstance(epochs, Integral) or epochs < 1:
        raise ValueError(f"epochs must be a whole number >= 1, got {epochs!r}")
    if not isinstance(learning_rate, Real) or not 0 < learning_rate < float("inf"):
        raise ValueError(f"learning_rate must be a number > 0 and finite, got {learning_rate!r}")
    if not isinstance(objectives, DistillationObjectives | None):
        raise ValueError(f"objectives must be DistillationObjectives or None, got {objectives!r}")
    if precision not in PRECISIONS:
        raise ValueError(f"precision must be one of {', '.join(PRECISIONS)}, got {precision!r}")
    batches, ends = _sized(dataloader), _Ends()
    with _as_found(student, teacher), quietly():
        module = DistillationModule(
            _canonical(teacher),
            student,
            # Lightning clips no gradients for a fused optimizer in mixed precision.
            functools.partial(AdamW, weight_decay=0.0, fused=precision == "32-true"),
            warmup_schedule,
            learning_rate,
            objectives or DistillationObjectives(),
        )
        trainer = _trainer(epochs, precision, ends, progress)
        began = time.perf_counter()
        trainer.fit(module, train_dataloaders=batches)
        seconds = time.perf_counter() - began
    student.eval()
    first, last = ends.first, ends.last
    return DistillationResult(
        trainer.global_step,
        seconds,
        first["distill/loss"],
        last["distill/loss"],
        first.get("distill/kl"),
        last.get("distill/kl"),
    )


class _Ends(L.Callback):
    """Keeps what the first and the last step logged, and refuses batches that are no dicts."""

    def __init__(self) -> None:
        self.first: dict[str, float] = {}
        self.last: dict[str, float] = {}

    def on_train_batch_start(
        self, trainer: L.Trainer, pl_module: L.LightningModule, batch: Any, batch_idx: int
    ) -> None:
        if not isinstance(batch, Mapping):
            raise ValueError(f"dataloader must yield dicts of what the model takes, got {type(batch).__name__}")

    def on_train_batch_end(self, trainer: L.Trainer, *_: Any) -> None:
        self.last = {name: float(value) for name, value in trainer.callback_metrics.items()}
        self.first = self.first or self.last


def _sized(dataloader: Iterable[Any]) -> Iterable[Any]:
    """The dataloader, which is not empty; a list of batches becomes one."""
    if isinstance(dataloader, Mapping):
        raise ValueError(f"dataloader must yield batches, got one batch ({type(dataloader).__name__}): pass [batch]")
    try:
        length = len(dataloader)  # type: ignore[arg-type]
    except TypeError as error:
        # Loaders of endless data have the method, but no answer.
        raise ValueError(
            f"dataloader must have a length, to schedule the learning rate by, got {type(dataloader).__name__} without"
        ) from error
    if length == 0:
        raise ValueError("dataloader must hold at least one batch, got none")
    # Lightning would take a list for several loaders.
    return DataLoader(dataloader, batch_size=None) if isinstance(dataloader, Sequence) else dataloader


def _canonical(teacher: nn.Module) -> nn.Module:
    """The teacher with softmax in our seam: itself, or a copy that holds its weights."""
    layers = attention_layers(teacher)
    if not layers:
        return canonicalise(teacher, share_weights=True)
    others = sorted({type(layer).__name__ for layer in layers.values() if not isinstance(layer, SoftmaxAttention)})
    if others:
        raise ValueError(f"teacher must attend by softmax, got {', '.join(others)}")
    return teacher


def _trainer(epochs: int, precision: Precision, ends: _Ends, progress: bool) -> L.Trainer:
    callbacks: list[L.Callback] = [ends]
    if progress:
        bar = StageProgressBar()
        bar.stage = DistillationModule.stage
        callbacks.append(bar)
    return L.Trainer(
        max_epochs=epochs,
        devices=1,
        precision=precision,
        gradient_clip_val=1.0,
        callbacks=callbacks,
        logger=False,
        enable_checkpointing=False,
        enable_model_summary=False,
        enable_progress_bar=progress,
    )


@contextmanager
def _as_found(student: nn.Module, teacher: nn.Module) -> Iterator[None]:
    """Freezes the teacher, and afterwards gives both models back as they were: devices, modes, what trains."""
    trains = {p: p.requires_grad for model in (student, teacher) for p in model.parameters()}
    modes = {part: part.training for model in (student, teacher) for part in model.modules()}
    devices = [next(model.parameters()).device for model in (student, teacher)]
    for parameter in teacher.parameters():
        parameter.requires_grad_(False)
    try:
        yield
    finally:
        for model, device in zip((student, teacher), devices, strict=True):
            model.to(device)
        for part, training in modes.items():
            part.training = training
        for parameter, required in trains.items():
            parameter.requires_grad_(required)
