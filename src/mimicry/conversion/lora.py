"""Low-rank adapters on the projections of converted attentions, by peft."""

from dataclasses import dataclass
from typing import TypeVar

import torch
from torch import nn
from transformers.pytorch_utils import Conv1D

from mimicry.attention.capture import attention_layers
from mimicry.conversion.seam import ATTRIBUTE
from mimicry.conversion.site import find_sites

Model = TypeVar("Model", bound=nn.Module)


@dataclass(frozen=True)
class LoRASettings:
    """Low-rank adapters W + (alpha / r) B A on the query, key, value and output projections of every attention.

    Args:
        r: rank, >= 1.
        alpha: scale of the update is alpha / r, > 0.
        dropout: of the adapters' inputs, in [0, 1).

    Raises:
        ValueError: if a value is out of its range.

    Source: arXiv 2402.04347, Sec. 5.4 (Llama-2: r = 8, alpha = 16 on q, k, v, o); Hu et al. 2021.
    """

    r: int = 8
    alpha: int = 16
    dropout: float = 0.0

    def __post_init__(self) -> None:
        if self.r < 1:
            raise ValueError(f"lora.r must be >= 1, got {self.r}")
        if self.alpha <= 0:
            raise ValueError(f"lora.alpha must be > 0, got {self.alpha}")
        if not 0 <= self.dropout < 1:
            raise ValueError(f"lora.dropout must be in [0, 1), got {self.dropout}")


def add_lora(model: Model, settings: LoRASettings) -> Model:
    """Freezes a converted `model` but for new adapters and the feature maps, in place, and returns it.

    Adapters are at least float32, whatever the model is kept in: most steps are too small for the digits of bfloat16.
    The adapters start at zero, so outputs do not change. Maps stay trainable, because attentions that are swapped in
    without distillation have no other stage in which theirs could learn.
    """
    # peft imports slowly, and only this needs it.
    from peft import LoraConfig, inject_adapter_in_model

    targets = projections(model)
    config = LoraConfig(
        r=settings.r,
        lora_alpha=settings.alpha,
        lora_dropout=settings.dropout,
        target_modules=targets,
        # GPT-2 keeps its weights transposed, as (inputs, outputs).
        fan_in_fan_out=any(isinstance(model.get_submodule(name), Conv1D) for name in targets),
    )
    kept = {id(parameter) for parameter in model.parameters()}
    inject_adapter_in_model(config, model)
    for parameter in model.parameters():
        if id(parameter) not in kept:
            parameter.data = parameter.data.to(torch.promote_types(parameter.dtype, torch.float32))
    for layer in attention_layers(model).values():
        layer.requires_grad_(True)
    return model


def projections(model: nn.Module) -> list[str]:
    """Module names of the linear projections in and out of every self-attention of a Hugging Face model."""
    return [
        f"{site.name}.{name}"
        for site in find_sites(model)
        for name, module in site.module.named_modules()
        if isinstance(module, nn.Linear | Conv1D) and not name.startswith(ATTRIBUTE)
    ]
