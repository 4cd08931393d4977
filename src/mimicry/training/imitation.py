"""Losses of a student that runs as a whole, against what its teacher made of the same inputs."""

import inspect
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from mimicry.objectives import DistillationObjectives, logit_divergence, relative_error
from mimicry.shapes import Scalar


def run_host(model: nn.Module, inputs: Mapping[str, Tensor], objectives: DistillationObjectives) -> Any:
    """The host model's outputs, with hidden states if they are wanted, and no cache filled on the way."""
    options: dict[str, bool] = {}
    if objectives.hidden > 0:
        options["output_hidden_states"] = True
    if "use_cache" in inspect.signature(model.forward).parameters:
        options["use_cache"] = False
    return model(**inputs, **options)


def imitation_terms(
    student: nn.Module, taught: Any, inputs: Mapping[str, Tensor], objectives: DistillationObjectives
) -> dict[str, Scalar]:
    """Unweighted terms `hidden` and `logits`, as far as they have a weight, with the student's graph.

    Args:
        student: runs on `inputs`.
        taught: what `run_host` gave of the teacher on the same inputs.
        inputs: a batch; tokens outside its `attention_mask` do not count.
        objectives: which terms to form, and their temperature.

    Raises:
        ValueError: if a term is wanted of which the host gives nothing, or which it cannot have.
    """
    said = run_host(student, inputs, objectives)
    mask = inputs.get("attention_mask")
    mask = None if mask is None else mask.to(torch.bool)
    terms: dict[str, Scalar] = {}
    if objectives.hidden > 0:
        # The first are the embeddings, before any attention; most decoders give the last after their final norm.
        pairs = list(zip(taught.hidden_states[1:], said.hidden_states[1:], strict=True))
        terms["hidden"] = torch.stack([relative_error(theirs, ours, mask) for theirs, ours in pairs]).mean()
    if objectives.logits > 0:
        if getattr(said, "logits", None) is None:
            raise ValueError(f"objectives.logits needs a model with logits, got {type(student).__name__}")
        # Classifiers of whole sequences have one prediction per row, padded or not.
        counted = mask if mask is not None and said.logits.shape[:-1] == mask.shape else None
        terms["logits"] = logit_divergence(taught.logits, said.logits, counted, objectives.temperature)
    return terms
