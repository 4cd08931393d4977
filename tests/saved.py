"""Saved students, as tests read them back."""

from pathlib import Path
from typing import Any

import torch
from families import DECODERS, IMAGE_FAMILIES
from torch import Tensor
from transformers import (
    AutoModelForCausalLM,
    AutoModelForImageClassification,
    AutoModelForSequenceClassification,
    PreTrainedModel,
)


def auto_class(family: str) -> Any:
    """The Auto class of the family's tiny models."""
    if family in IMAGE_FAMILIES:
        return AutoModelForImageClassification
    return AutoModelForCausalLM if family in DECODERS else AutoModelForSequenceClassification


def load(family: str, folder: Path, **options: Any) -> PreTrainedModel:
    if family == "mixtral":
        # The host library keeps no record of it, and its default takes no such narrow weights.
        options["experts_implementation"] = "eager"
    return auto_class(family).from_pretrained(folder, **options)


def logits(model: torch.nn.Module, batch: dict[str, Tensor]) -> Tensor:
    """In the dtype of the model."""
    dtype = next(model.parameters()).dtype
    with torch.no_grad():
        return model(**{name: x.to(dtype) if x.is_floating_point() else x for name, x in batch.items()}).logits
