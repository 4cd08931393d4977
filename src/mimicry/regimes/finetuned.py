"""Finetuned conversion: the model is finetuned first, then converted."""

import functools
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import ClassVar

from torch import nn

from mimicry.attention import Attention
from mimicry.conversion import canonicalise
from mimicry.conversion.layers import check_layers
from mimicry.objectives import DistillationObjectives
from mimicry.regimes.stage import Stage, check_holdout
from mimicry.regimes.swap import check_depth, swap_and_distill
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
        layers: which layers are converted, such as `all`, `0-5` or `every:2`; the others keep softmax.
        objectives: what the distillation minimises; the paper's loss alone by default.

    Raises:
        ValueError: if holdout_rows is below 1, or layers is not such a text.
    """

    teach: BudgetGrid
    distill: BudgetGrid
    recover: BudgetGrid
    holdout_rows: int = 500
    layers: str | int = "all"
    objectives: DistillationObjectives = field(default_factory=DistillationObjectives)

    modalities: ClassVar[tuple[str, ...]] = ("text", "image")

    def __post_init__(self) -> None:
        check_holdout(self.holdout_rows)
        check_layers(self.layers)

    @property
    def grids(self) -> dict[str, BudgetGrid]:
        """The budgets of the stages that train, by the stage's name."""
        return {"teach": self.teach, "distill": self.distill, "recover": self.recover}

    def stages(
        self,
        model: nn.Module,
        attention: Callable[..., Attention],
        task_module: Callable[..., TaskModule],
        distillation_module: Callable[..., DistillationModule],
    ) -> Iterator[Stage]:
        """The procedure in order; each stage starts from the weights the previous one left.

        Raises:
            ValueError: before the first stage, if the model does not have the layers to convert.
        """
        check_depth(self.layers, model)
        teach, recover = self.teach.candidates, self.recover.candidates
        if teach:
            module = functools.partial(task_module, model, "teach")
            yield Stage("teach", "finetune the softmax model on the task", "teacher", model, module, teach)
        teacher = canonicalise(model).requires_grad_(False).eval()
        if not teach:
            yield Stage("donor", "take the finetuned model as it is", "teacher", teacher)
        distillation_module = functools.partial(distillation_module, objectives=self.objectives)
        swapped = (model, teacher, attention, self.layers, self.distill, distillation_module)
        student = yield from swap_and_distill(*swapped)
        if recover:
            module = functools.partial(task_module, student, "recover")
            yield Stage("recover", "finetune the converted model on the task", "recovered", student, module, recover)
