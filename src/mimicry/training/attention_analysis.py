"""Measures attention of teacher and student on the same inputs, each in its own forward pass."""

from collections.abc import Iterable
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from mimicry.analysis import attention_entropy, attention_kl
from mimicry.attention.capture import attention_layers, capture
from mimicry.data.batches import model_inputs
from mimicry.shapes import Weights


@dataclass(frozen=True)
class AnalysisSettings:
    """What is measured about attention after each stage.

    Args:
        rows: validation rows compared, >= 1, rounded to whole batches.
        sentence: text whose attention maps are drawn; None takes a validation row of about 14 tokens.
    """

    rows: int = 256
    sentence: str | None = None

    def __post_init__(self) -> None:
        if self.rows < 1:
            raise ValueError(f"analysis.rows must be >= 1, got {self.rows}")


@dataclass(frozen=True)
class AttentionSummary:
    """Means over examples, layers, heads and queries that are not padding, in nats."""

    kl: float
    student_entropy: float
    teacher_entropy: float


def attention_weights(model: nn.Module, batch: dict[str, Tensor]) -> dict[str, tuple[Weights, Tensor | None]]:
    """Weights and key mask of every layer of a canonicalised or converted model on one batch."""
    with torch.inference_mode(), capture(model) as captured:
        model(**model_inputs(batch))
        return {
            name: (layer.weights(seen.q, seen.k, seen.key_mask), seen.key_mask)
            for name, layer in attention_layers(model).items()
            for seen in (captured[name],)
        }


def summarise_attention(
    teacher: nn.Module, student: nn.Module, batches: Iterable[dict[str, Tensor]]
) -> AttentionSummary:
    """Mean KL(teacher || student) and entropies over `batches`, every query weighing the same.

    Both models run as they are used: differences that earlier layers feed into later ones are part of the result.
    """
    totals, queries = torch.zeros(3, dtype=torch.float64), 0
    for batch in batches:
        ours, theirs = attention_weights(student, batch), attention_weights(teacher, batch)
        for name, (a, key_mask) in theirs.items():
            b = ours[name][0]
            values = (attention_kl(a, b, key_mask), attention_entropy(b, key_mask), attention_entropy(a, key_mask))
            count = a.shape[0] * a.shape[2] if key_mask is None else int(key_mask.sum())
            totals += torch.tensor([float(mean_over_queries(value, key_mask)) * count for value in values])
            queries += count
    kl, student_entropy, teacher_entropy = (totals / max(queries, 1)).tolist()
    return AttentionSummary(kl, student_entropy, teacher_entropy)


def mean_over_queries(per_query: Tensor, query_mask: Tensor | None) -> Tensor:
    """Mean of (batch, heads, queries) over the queries that are not padding."""
    if query_mask is None:
        return per_query.mean()
    return per_query[query_mask[:, None, :].expand_as(per_query)].mean()
