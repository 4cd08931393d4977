"""Measures one layer on one batch, a block of queries at a time."""

from collections.abc import Iterator
from dataclasses import dataclass, field

import torch
from torch import Tensor

from mimicry.analysis import (
    attention_entropy,
    attention_kl,
    isotonic_r2,
    kendall,
    normalised_entropy,
    output_cosine,
    spearman,
    top_k_agreement,
    total_variation,
)
from mimicry.analysis.rows import WeightRows, scaled_scores, weight_rows
from mimicry.attention import Attention
from mimicry.attention.capture import Captured
from mimicry.training.attention_statistics import LOG_FLOOR, AttentionStatistics
from mimicry.training.lengths import Lengths

# Scores or log weights that differ by less are equal: what rounding in float64 leaves of keys that are the same.
TIE = 1e-9
DRAW_SEED = 0


@dataclass(frozen=True)
class FullAnalysis:
    """What a full analysis measures beyond entropies and divergence: fidelity head by head, ranks, curves.

    Args:
        queries: of each row whose ranks over all keys are compared with those of its dot products, >= 1. Which ones is
            drawn by a fixed seed, the same for rows of the same length, whatever batch they come in.
        top_k: keys compared between teacher and student, >= 1.
        lengths: longer texts on which divergence and entropy are measured as well.

    Raises:
        ValueError: if a value is below 1.
    """

    queries: int = 2
    top_k: int = 5
    lengths: Lengths = field(default_factory=Lengths)

    def __post_init__(self) -> None:
        for name, value in (("queries", self.queries), ("top_k", self.top_k)):
            if value < 1:
                raise ValueError(f"analysis.full.{name} must be >= 1, got {value}")


@dataclass(frozen=True)
class LayerInUse:
    """A layer and what it attended over in one forward pass.

    In a full analysis weights are formed in float64, in which only equal ones tie; `layer` is a copy in that precision.
    """

    layer: Attention
    seen: Captured
    exact: bool

    @property
    def counted(self) -> Tensor:
        """Queries that are not padding, (batch, queries)."""
        q = self.seen.q
        if self.seen.key_mask is None:
            return torch.ones(q.shape[0], q.shape[2], dtype=torch.bool, device=q.device)
        return self.seen.key_mask

    def rows(self, block: int) -> Iterator[WeightRows]:
        """Its weights in blocks of queries."""
        q, k = (x.double() if self.exact else x for x in (self.seen.q, self.seen.k))
        return weight_rows(self.layer, q, k, self.seen.key_mask, block)


class LayerMeasures:
    """Takes in layers of a student, and the teacher's if it has one.

    Args:
        student: where the student's numbers go.
        teacher: where the teacher's entropy goes.
        full: what to measure beyond entropies and divergence.
    """

    def __init__(self, student: AttentionStatistics, teacher: AttentionStatistics, full: FullAnalysis | None) -> None:
        self.student, self.teacher, self.full = student, teacher, full

    def take(self, name: str, student: LayerInUse, teacher: LayerInUse | None, block: int) -> None:
        """Measures one layer on one batch; both models saw the same inputs."""
        counted = student.counted
        drawn = None if self.full is None else drawn_queries(counted, self.full.queries)
        taught = None if teacher is None else teacher.rows(block)
        for rows in student.rows(block):
            here = counted[:, rows.queries]
            self._spikiness(name, rows, here)
            if taught is not None:
                self._fidelity(name, next(taught), rows, here)
            if drawn is not None:
                self._ranks(name, student.seen, rows, drawn[:, rows.queries])
        if self.full is not None and teacher is not None:
            cosine = output_cosine(teacher.seen.outputs, student.seen.outputs)
            self.student.add("output_cosine", name, cosine, counted)

    def _spikiness(self, name: str, rows: WeightRows, counted: Tensor) -> None:
        weights = rows.weights.float()
        self.student.add("entropy", name, attention_entropy(weights), counted)
        if self.full is not None:
            shares = normalised_entropy(weights, rows.visible)
            self.student.add("entropy_normalised", name, shares, counted)
            self.student.add_positions("entropy_normalised", shares, counted, rows.queries.start)

    def _fidelity(self, name: str, teacher: WeightRows, student: WeightRows, counted: Tensor) -> None:
        # In float32 whatever the weights were formed in: what a missed key costs is its smallest number.
        a, b = teacher.weights.float(), student.weights.float()
        kl = attention_kl(a, b)
        self.student.add("kl", name, kl, counted)
        self.teacher.add("entropy", name, attention_entropy(a), counted)
        if self.full is not None:
            self.student.add_positions("kl", kl, counted, student.queries.start)
            self.student.add("total_variation", name, total_variation(a, b), counted)
            agreement = top_k_agreement(a, b, teacher.visible, self.full.top_k)
            self.student.add("top_k", name, agreement, counted)

    def _ranks(self, name: str, seen: Captured, rows: WeightRows, drawn: Tensor) -> None:
        """Of the drawn queries (batch, queries), against the dot products of this very layer."""
        if not bool(drawn.any()):
            return
        example, query = drawn.nonzero(as_tuple=True)
        keys = seen.k[example][:, :, rows.keys].double()
        scores = scaled_scores(seen.q.double()[:, :, rows.queries][example, :, query][:, :, None], keys).squeeze(2)
        weights = rows.weights[example, :, query]
        logs = weights.clamp(min=torch.finfo(weights.dtype).tiny).log()
        visible = rows.visible[example, :, query]
        floored = logs.clamp(min=LOG_FLOOR)
        for quantity, values in (
            ("monotonicity", spearman(scores, logs, visible, TIE)),
            ("kendall", kendall(scores, logs, visible, TIE)),
            ("isotonic_r2", isotonic_r2(scores, floored, visible, TIE)),
        ):
            self.student.add_items(quantity, name, values.T)
        softmax = scores.masked_fill(~visible, -torch.inf).log_softmax(dim=-1)
        shown = visible & (softmax >= self.student.rises.ranges[0][0])
        self.student.add_rises(softmax.masked_fill(~shown, torch.nan), floored)


def drawn_queries(counted: Tensor, queries: int) -> Tensor:
    """Up to `queries` of the queries that count of each row, (batch, queries), True where drawn.

    The draw depends on how many count alone: neither on padding nor on the rest of the batch.
    """
    drawn = torch.zeros_like(counted)
    for row, counts in enumerate(counted.cpu()):
        places = counts.nonzero().squeeze(1)
        order = torch.randperm(len(places), generator=torch.Generator().manual_seed(DRAW_SEED + len(places)))
        drawn[row, places[order[:queries]].to(drawn.device)] = True
    return drawn
