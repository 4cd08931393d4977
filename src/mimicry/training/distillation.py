"""Distillation: feature maps learn to do as softmax does."""

from collections.abc import Callable, Mapping
from contextlib import nullcontext, suppress
from typing import Any

import lightning as L
import torch
from torch import Tensor, nn
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler

from mimicry.attention.capture import Captured, attention_layers, watching
from mimicry.data.batches import model_inputs
from mimicry.objectives import DistillationObjectives, with_gradients
from mimicry.shapes import Scalar
from mimicry.training.forcing import ForcedLayer, forced_layer
from mimicry.training.imitation import imitation_terms, run_host
from mimicry.training.optimization import lightning_optimizers
from mimicry.training.task import refuse_divergence


class DistillationModule(L.LightningModule):
    """Trains the parameters of a student's attentions, and nothing else, to imitate its teacher.

    The teacher runs in evaluation mode and without gradient. For the teacher-forced objectives each of its layers hands
    its states to the student's layer of the same name, which is compared and differentiated before the next layer runs:
    errors of one layer never reach the next, and memory is that of one layer. For the others the student runs too, in
    evaluation mode as far as its host is concerned, gradient checkpointing if it is enabled there; until training ends
    all its parameters but those of its attentions are frozen. Source: arXiv 2402.04347, Sec. 4.2.

    Attentions without parameters to train, such as layers that stay softmax, are left out of the teacher-forced means.

    Args:
        teacher: a canonicalised softmax model.
        student: a converted copy of it; its attentions' parameters are what trains, in place.
        optimizer: called with parameters and `lr`.
        scheduler: called with the optimizer and `total_steps`.
        learning_rate: peak learning rate.
        objectives: what is minimised; by default the paper's loss alone.

    Raises:
        ValueError: if nothing in the student's attentions trains, or teacher and student do not have the same layers.
    """

    stage = "distill"

    def __init__(
        self,
        teacher: nn.Module,
        student: nn.Module,
        optimizer: Callable[..., Optimizer],
        scheduler: Callable[..., LRScheduler],
        learning_rate: float,
        objectives: DistillationObjectives = DistillationObjectives(),  # noqa: B008 (frozen)
    ) -> None:
        super().__init__()
        check_pair(teacher, student)
        self.teacher = teacher.requires_grad_(False).eval()
        trained = {name: layer for name, layer in attention_layers(student).items() if _trainable(layer)}
        self.names = list(trained)
        self.students = nn.ModuleList(trained.values())
        self.optimizer = optimizer
        self.scheduler = scheduler
        self.learning_rate = learning_rate
        self.objectives = objectives
        self.frozen: list[nn.Parameter] = []
        # Registered only where it runs: what is registered moves between devices and goes into checkpoints.
        self.student = student if objectives.runs_student else None
        if objectives.runs_student:
            maps = {id(p) for p in self.students.parameters()}
            self.frozen = [p for p in student.parameters() if p.requires_grad and id(p) not in maps]
            for parameter in self.frozen:
                parameter.requires_grad_(False)

    def on_train_start(self) -> None:
        if self.student is not None:
            for part in self.student.modules():
                # Host layers checkpoint in training mode only; what they consist of stays in evaluation mode.
                part.training = bool(getattr(part, "gradient_checkpointing", False))
        # Lightning keeps the mode it finds; in evaluation mode an ablated hybrid would not train what it leaves out.
        self.students.train()

    def teardown(self, stage: str) -> None:
        for parameter in self.frozen:
            parameter.requires_grad_(True)
        self.frozen = []

    def training_step(self, batch: Mapping[str, Tensor], batch_idx: int) -> Tensor:
        inputs = model_inputs(batch)
        layers, taught = self._run_teacher(inputs)
        names = list(layers[0].terms) if layers else []
        terms = {name: torch.stack([layer.terms[name] for layer in layers]).mean() for name in names}
        loss = self._weighted(terms)
        if layers:
            gradients = [gradient.div_(len(layers)) for layer in layers for gradient in layer.gradients]
            loss = with_gradients(loss, _trainable(self.students), gradients)
        if self.student is not None:
            compared = imitation_terms(self.student, taught, inputs, self.objectives)
            loss, terms = loss + self._weighted(compared), terms | compared
        refuse_divergence(loss, self.stage, self.global_step)
        self._report(loss.detach(), {name: term.detach() for name, term in terms.items()})
        return loss

    def _run_teacher(self, inputs: dict[str, Tensor]) -> tuple[list[ForcedLayer], Any]:
        """Losses of the layers that are fed its states, and its outputs if the student is to run."""
        layers, teachers = {}, attention_layers(self.teacher)
        students = dict(zip(self.names, self.students, strict=True))

        def see(name: str, seen: Captured) -> None:
            if name in students:
                layers[name] = forced_layer(teachers[name], students[name], seen, self.objectives)
            if self.student is None and len(layers) == len(students):
                raise _EndedError

        watched = watching(self.teacher, see) if self.objectives.forces_teacher else nullcontext()
        taught = None
        with torch.no_grad(), watched, suppress(_EndedError):
            taught = run_host(self.teacher, inputs, self.objectives)
        return [layers[name] for name in self.names] if layers else [], taught

    def _weighted(self, terms: dict[str, Scalar]) -> Scalar:
        parts = [getattr(self.objectives, name) * term for name, term in terms.items() if name != "entropy"]
        return torch.stack(parts).sum() if parts else torch.zeros((), device=self.device)

    def _report(self, loss: Scalar, terms: dict[str, Scalar]) -> None:
        self.log("distill/loss", loss, prog_bar="attention" not in terms)
        for name in ("output", "hidden", "logits"):
            if name in terms:
                self.log(f"distill/{name}", terms[name])
        if "attention" in terms:
            self.log("distill/soft_xent", terms["attention"])
            self.log("distill/kl", terms["attention"] - terms["entropy"], prog_bar=True)

    def configure_optimizers(self) -> dict[str, Any]:
        steps = int(self.trainer.estimated_stepping_batches)
        return lightning_optimizers(
            self.optimizer, self.scheduler, self.students.parameters(), self.learning_rate, steps
        )


class _EndedError(Exception):
    """Unwinds a forward pass of which nothing more is needed."""


def check_pair(teacher: nn.Module, student: nn.Module) -> None:
    """Refuses models that cannot be distilled; ValueError, one line."""
    theirs, ours = attention_layers(teacher), attention_layers(student)
    if not any(_trainable(layer) for layer in ours.values()):
        raise ValueError(
            f"student must have attentions with parameters to train, got {type(student).__name__} "
            f"with {', '.join(sorted({type(layer).__name__ for layer in ours.values()})) or 'no converted attention'}"
        )
    if theirs.keys() != ours.keys():
        raise ValueError(
            f"teacher must be canonicalised and have the {len(ours)} attention layers of the student, "
            f"got {type(teacher).__name__} with {len(theirs)} of ours"
        )
    for name, layer in ours.items():
        if layer.dims != theirs[name].dims:
            raise ValueError(f"teacher must have the student's {layer.dims} at {name}, got {theirs[name].dims}")


def _trainable(module: nn.Module) -> list[nn.Parameter]:
    return [p for p in module.parameters() if p.requires_grad]
