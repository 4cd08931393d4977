"""Finetuned conversion: the model is finetuned first, then converted."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass

from torch import nn

from mimicry.attention import Attention
from mimicry.attention.capture import attention_layers
from mimicry.conversion import canonicalise, convert
from mimicry.regimes.stage import Stage
from mimicry.training.budget import Budget
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
    """

    teach: Budget
    distill: Budget
    recover: Budget

    def stages(
        self,
        model: nn.Module,
        attention: Callable[..., Attention],
        task_module: Callable[..., TaskModule],
        distillation_module: Callable[..., DistillationModule],
    ) -> Iterator[Stage]:
        """The procedure in order; each stage starts from the weights the previous one left."""
        if self.teach.epochs > 0:
            module = task_module(model, stage="teach", learning_rate=self.teach.learning_rate)
            yield Stage("teach", "finetune the softmax model on the task", "teacher", model, module, self.teach)
        teacher = canonicalise(model).requires_grad_(False).eval()
        if self.teach.epochs == 0:
            yield Stage("donor", "take the finetuned model as it is", "teacher", teacher)
        student = convert(model, attention)
        yield Stage("convert", "swap the attention, train nothing", "no_train", student)
        trainable = [p for layer in attention_layers(student).values() for p in layer.parameters()]
        if self.distill.epochs > 0 and trainable:
            module = distillation_module(teacher, student, learning_rate=self.distill.learning_rate)
            yield Stage(
                "distill", "train the feature maps on softmax's weights", "distilled", student, module, self.distill
            )
        if self.recover.epochs > 0:
            module = task_module(student, stage="recover", learning_rate=self.recover.learning_rate)
            yield Stage(
                "recover", "finetune the converted model on the task", "recovered", student, module, self.recover
            )
