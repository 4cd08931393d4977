"""Measures attention of teacher and student on the same inputs, each in its own forward pass."""

import copy
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader

from mimicry.analysis.rows import queries_at_a_time
from mimicry.attention import Attention
from mimicry.attention.capture import Captured, attention_layers, capture
from mimicry.data.batches import Rows, TaskBatches, model_inputs
from mimicry.shapes import Weights
from mimicry.training.attention_statistics import AttentionStatistics, CurveNumbers, HeadNumbers
from mimicry.training.layer_measures import FullAnalysis, LayerInUse, LayerMeasures
from mimicry.training.lengths import length_curves


@dataclass(frozen=True)
class AnalysisSettings:
    """What is measured about attention after each stage.

    Args:
        rows: validation rows compared, >= 1, rounded to whole batches.
        sentence: text whose attention maps are drawn; None takes a validation row of about 14 tokens.
        full: everything beyond entropies and divergence; None leaves it out.
    """

    rows: int = 256
    sentence: str | None = None
    full: FullAnalysis | None = None

    def __post_init__(self) -> None:
        if self.rows < 1:
            raise ValueError(f"analysis.rows must be >= 1, got {self.rows}")


@dataclass(frozen=True)
class AttentionSummary:
    """Means over examples, layers, heads and queries that are not padding, in nats; and the same head by head.

    `heads` and `curves` are the student's; those of the teacher are found where it is measured as a student of none.
    `points` are some of the pairs (log weight of softmax, log weight) that the curve of monotonicity sums up.
    """

    kl: float
    student_entropy: float
    teacher_entropy: float
    heads: tuple[HeadNumbers, ...] = ()
    curves: tuple[CurveNumbers, ...] = ()
    points: tuple[tuple[float, float], ...] = ()


def attention_weights(model: nn.Module, batch: dict[str, Tensor]) -> dict[str, tuple[Weights, Tensor | None]]:
    """Weights and key mask of every layer of a canonicalised or converted model on one batch."""
    layers = attention_layers(model)
    with torch.inference_mode():
        return {
            name: (layers[name].weights(seen.q, seen.k, seen.key_mask), seen.key_mask)
            for name, seen in _captured(model, batch).items()
        }


def summarise_attention(
    teacher: nn.Module,
    student: nn.Module,
    batches: Iterable[dict[str, Tensor]],
    full: FullAnalysis | None = None,
    block: int | None = None,
) -> AttentionSummary:
    """Entropies of both, and how far the student's attention is from the teacher's, every query weighing the same.

    Both models run as they are used: differences that earlier layers feed into later ones are part of the result. A
    model that is its own teacher is measured alone.

    Args:
        teacher: canonicalised softmax model, or `student` itself.
        student: converted, canonicalised or native model.
        batches: inputs of both.
        full: what to measure beyond entropies and divergence.
        block: queries at a time, >= 1; None takes as many as fit in bounded memory.
    """
    alone, exact = teacher is student, full is not None
    ours, theirs = _layers(student, exact), {} if alone else _layers(teacher, exact)
    statistics, teaching = AttentionStatistics(spread=exact), AttentionStatistics(spread=False)
    measures = LayerMeasures(statistics, teaching, full)
    with torch.inference_mode():
        for batch in batches:
            studied, taught = _captured(student, batch), {} if alone else _captured(teacher, batch)
            for name, layer in ours.items():
                seen = studied[name]
                model = LayerInUse(theirs[name], taught[name], exact) if name in taught else None
                measures.take(name, LayerInUse(layer, seen, exact), model, block or queries_at_a_time(seen.q, seen.k))
    entropy = statistics.overall("entropy")
    return AttentionSummary(
        kl=0.0 if alone else statistics.overall("kl"),
        student_entropy=entropy,
        teacher_entropy=entropy if alone else teaching.overall("entropy"),
        heads=statistics.heads(),
        curves=statistics.curves(),
        points=tuple((x, y) for part in statistics.points for x, y in part.tolist()),
    )


def analyse_state(
    teacher: nn.Module,
    student: nn.Module,
    batches: TaskBatches,
    rows: Rows,
    settings: AnalysisSettings,
    device: torch.device,
) -> AttentionSummary:
    """What `settings` ask for of one state of a model, on rows of its task and on longer texts made of them."""
    loader, full = batches.measuring(rows), settings.full
    student.eval()
    with moved([teacher, student], device):
        summary = summarise_attention(teacher, student, analysed_batches(loader, settings.rows), full)
        if full is None:
            return summary
        measured = []
        for tokens in full.lengths.tokens:
            texts = full.lengths.batches(student, batches.encoder, rows, tokens)
            longer = summarise_attention(teacher, student, texts)
            measured.append((tokens, longer.kl, longer.student_entropy))
    return replace(summary, curves=(*summary.curves, *length_curves(measured, teacher is student)))


def analysed_batches(loader: DataLoader, rows: int) -> Iterator[dict[str, Tensor]]:
    """Whole batches of about so many rows, evenly over a loader that is sorted by length."""
    batches = max(1, rows // (loader.batch_size or 1))
    # Its first batches alone would be the shortest texts.
    stride = max(1, len(loader) // batches)
    return (batch for index, batch in enumerate(loader) if index % stride == 0)


@contextmanager
def moved(models: Iterable[nn.Module], device: torch.device) -> Iterator[None]:
    """Inside the block the models are on `device`; afterwards where they were."""
    before = [(model, next(model.parameters()).device) for model in models]
    try:
        for model, _ in before:
            model.to(device)
        yield
    finally:
        for model, home in before:
            model.to(home)


def _captured(model: nn.Module, batch: dict[str, Tensor]) -> dict[str, Captured]:
    device = next(model.parameters()).device
    with capture(model) as captured:
        model(**{name: value.to(device) for name, value in model_inputs(batch).items()})
    return captured


def _layers(model: nn.Module, exact: bool) -> dict[str, Attention]:
    """The attention layers of a model, as they are or copied in float64."""
    layers = attention_layers(model)
    return {name: copy.deepcopy(layer).double().eval() for name, layer in layers.items()} if exact else layers
