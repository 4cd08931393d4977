"""Finetuned conversion: the model is finetuned first, then converted."""

import functools
from collections.abc import Callable, Iterator
from dataclasses import dataclass

from torch import nn

from mimicry.attention import Attention
from mimicry.attention.capture import attention_layers
from mimicry.conversion import canonicalise, convert
from mimicry.regimes.stage import Stage
from mimicry.training.budget import BudgetGrid
from mimicry.training.distillation import DistillationModule
from mimicry.training.task import TaskModule


@dataclass(frozen=True)
class FinetunedConversion:
    """Teach, mimic, recover. Source: arXiv 2402.04347, Sec. 4.2 and 5.3 (BERT on GLUE).

    Args:
        teach: finetuning of the softmax model on the task; `epochs: 0` takes it as it is (a finished donor).
        distill: training of the feature maps alone on the teacher's weights; `epochs: 0` gives the "no
            distillation" ablation (with attn=t2r the paper's T2R row).
        recover: finetuning of the whole converted model on the task.
        holdout_rows: training rows set aside, >= 1, on which a stage with several candidates chooses; nothing trains
            on them, and the reported rows are never looked at. Without candidates none are set aside.

    Raises:
        ValueError: if holdout_rows is below 1.
    """

    teach: BudgetGrid
    distill: BudgetGrid
    recover: BudgetGrid
    holdout_rows: int = 500

    def __post_init__(self) -> None:
        if self.holdout_rows < 1:
            raise ValueError(f"regime.holdout_rows must be >= 1, got {self.holdout_rows}")

    @property
    def chooses(self) -> bool:
        """Whether any stage has more than one candidate."""
        return any(len(grid.candidates) > 1 for grid in (self.teach, self.distill, self.recover))

    def stages(
        self,
        model: nn.Module,
        attention: Callable[..., Attention],
        task_module: Callable[..., TaskModule],
        distillation_module: Callable[..., DistillationModule],
    ) -> Iterator[Stage]:
        """The procedure in order; each stage starts from the weights the previous one left."""
        teach, distill, recover = (grid.candidates for grid in (self.teach, self.distill, self.recover))
        if teach:
            module = functools.partial(task_module, model, "teach")
            yield Stage("teach", "finetune the softmax model on the task", "teacher", model, module, teach)
        teacher = canonicalise(model).requires_grad_(False).eval()
        if not teach:
            yield Stage("donor", "take the finetuned model as it is", "teacher", teacher)
        student = convert(model, attention)
        yield Stage("convert", "swap the attention, train nothing", "no_train", student)
        if distill and any(True for layer in attention_layers(student).values() for _ in layer.parameters()):
            module = functools.partial(distillation_module, teacher, student)
            yield Stage("distill", "train the feature maps on softmax's weights", "distilled", student, module, distill)
        if recover:
            module = functools.partial(task_module, student, "recover")
            yield Stage("recover", "finetune the converted model on the task", "recovered", student, module, recover)
