"""Attention maps of teacher and student on one row, for the figure."""

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn

from mimicry.attention.capture import attention_layers
from mimicry.data.batches import TaskBatches, model_inputs
from mimicry.data.task import Example
from mimicry.training.attention_analysis import attention_weights

# A row of about this many tokens fills the figure and can still be read; of much longer texts the beginning is shown.
FIGURE_TOKENS, MOST_FIGURE_TOKENS = 14, 32


@dataclass(frozen=True)
class AttentionMaps:
    """Weights of teacher and student for one text, (layers, heads, n, n), and its tokens; no teacher from scratch."""

    teacher: np.ndarray | None
    student: np.ndarray
    tokens: list[str]


def attention_maps(
    batches: TaskBatches, teacher: nn.Module | None, student: nn.Module, sentence: str | None
) -> AttentionMaps:
    """Weights of both models on `sentence`, or on a row of the primary validation split of readable length."""
    encoder = batches.encoder
    if sentence is None:
        rows = next(iter(batches.validation.values()))
        lengths = encoder.lengths(rows)
        row = rows[min(range(len(rows)), key=lambda index: abs(lengths[index] - FIGURE_TOKENS))]
    else:
        (row,) = encoder.encode([Example(sentence, None, 0)])
    batch, names = encoder.collate([row]), encoder.position_names(row)
    if "input_ids" in batch and len(names) > MOST_FIGURE_TOKENS:
        batch = {name: value[:, :MOST_FIGURE_TOKENS] for name, value in model_inputs(batch).items()}
        names = names[:MOST_FIGURE_TOKENS]
    weights = _stacked(student.eval(), batch)
    # A native encoder may put a token of its own before the row's, whose state it pools.
    names = [*["[CLS]"] * (weights.shape[-1] - len(names)), *names]
    return AttentionMaps(None if teacher is None else _stacked(teacher, batch), weights, names)


def _stacked(model: nn.Module, batch: dict[str, Tensor]) -> np.ndarray:
    assert attention_layers(model)
    return torch.stack([weights[0] for weights, _ in attention_weights(model, batch).values()]).float().numpy()
