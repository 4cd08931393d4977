"""Pretrained conversion: a language model is converted as it is, then adapted."""

import functools
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import ClassVar, Literal

from torch import nn

from mimicry.attention import Attention
from mimicry.conversion import canonicalise
from mimicry.conversion.convert import unshare
from mimicry.conversion.layers import check_layers
from mimicry.conversion.lora import LoRASettings, add_lora
from mimicry.objectives import DistillationObjectives
from mimicry.regimes.stage import Stage, check_holdout
from mimicry.regimes.swap import check_depth, swap_and_distill
from mimicry.training.budget import BudgetGrid
from mimicry.training.distillation import DistillationModule
from mimicry.training.task import TaskModule


@dataclass(frozen=True)
class PretrainedConversion:
    """Mimic, recover. Source: arXiv 2402.04347, Sec. 5.4 (GPT-2 on WikiText-103, Llama-2 on SAMSum).

    `attn=softmax` runs the same recovery on the unconverted model: what the others are to be held against.

    Args:
        distill: training of the feature maps alone on the teacher's weights; `epochs: 0` skips it.
        recover: training on the task after the swap; `epochs: 0` skips it.
        recover_with: `lora` trains low-rank adapters and the maps, `full` every parameter; either in float32.
        lora: rank, scale and dropout of the adapters.
        holdout_rows: training rows set aside, >= 1, on which a stage with several candidates chooses; nothing trains
            on them, and the reported rows are never looked at. Without candidates none are set aside.
        layers: which layers are converted, such as `all`, `0-5` or `every:2`; the others keep softmax.
        objectives: what the distillation minimises; the paper's loss alone by default.

    Raises:
        ValueError: if holdout_rows is below 1, or layers is not such a text.
    """

    distill: BudgetGrid
    recover: BudgetGrid
    recover_with: Literal["lora", "full"] = "lora"
    lora: LoRASettings = field(default_factory=LoRASettings)
    holdout_rows: int = 8
    layers: str | int = "all"
    objectives: DistillationObjectives = field(default_factory=DistillationObjectives)

    modalities: ClassVar[tuple[str, ...]] = ("language",)

    def __post_init__(self) -> None:
        check_holdout(self.holdout_rows)
        check_layers(self.layers)

    @property
    def grids(self) -> dict[str, BudgetGrid]:
        """The budgets of the stages that train, by the stage's name."""
        return {"distill": self.distill, "recover": self.recover}

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
        # One copy in memory of what only the last stage may train.
        teacher = canonicalise(model.requires_grad_(False), share_weights=True).eval()
        yield Stage("donor", "take the pretrained model as it is", "teacher", teacher)
        distillation_module = functools.partial(distillation_module, objectives=self.objectives)
        swapped = (model, teacher, attention, self.layers, self.distill, distillation_module)
        student = yield from swap_and_distill(*swapped, share_weights=True)
        if self.recover.candidates:
            with_lora = self.recover_with == "lora"
            # In float32, whatever the model is kept in: most steps are too small for the digits of bfloat16.
            student = add_lora(student, self.lora) if with_lora else unshare(student).float().requires_grad_(True)
            module = functools.partial(task_module, student, "recover")
            about = f"train {'low-rank adapters' if with_lora else 'all parameters'} on the task"
            yield Stage("recover", about, "recovered", student, module, self.recover.candidates)
