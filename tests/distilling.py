"""Teachers, students and what trains them, tiny."""

import functools

import torch
from families import left_padded_batch, padded_batch, tiny_model
from torch.optim import AdamW

import mimicry
from mimicry.attention.capture import attention_layers
from mimicry.objectives import DistillationObjectives
from mimicry.training.distillation import DistillationModule
from mimicry.training.optimization import warmup_schedule

# One objective each, and all at once with weights that tell them apart.
EVERY_OBJECTIVE = {
    "attention": DistillationObjectives(),
    "output": DistillationObjectives(attention=0.0, output=1.0),
    "hidden": DistillationObjectives(attention=0.0, hidden=1.0),
    "logits": DistillationObjectives(attention=0.0, logits=1.0),
    "all": DistillationObjectives(attention=0.5, output=2.0, hidden=3.0, logits=5.0, temperature=2.0),
}


def distilling(
    family: str = "bert",
    attn: str = "hedgehog",
    objectives: DistillationObjectives = EVERY_OBJECTIVE["attention"],
    layers: str = "all",
    **changes: object,
) -> tuple[DistillationModule, torch.nn.Module, torch.nn.Module]:
    """A module that logs nowhere, its teacher and its student, whose maps are a little off their start."""
    teacher = mimicry.canonicalise(tiny_model(family, **changes))
    student = mimicry.convert(teacher, attn, layers)
    with torch.no_grad():
        for layer in attention_layers(student).values():
            for parameter in layer.parameters():
                parameter.add_(0.1 * torch.randn_like(parameter))
    optimizer = functools.partial(AdamW, weight_decay=0.0)
    module = DistillationModule(teacher, student, optimizer, warmup_schedule, 1e-2, objectives)
    module.log = lambda *_, **__: None
    module.on_train_start()
    return module, teacher, student


def batch_of(family: str, tokens: int = 12) -> dict[str, torch.Tensor]:
    """Three rows with padding, at their start too if the family predicts the next token."""
    return left_padded_batch(tokens=tokens) if family == "llama" else padded_batch(tokens=tokens)
