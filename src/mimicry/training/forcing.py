"""Teacher-forced losses of one attention layer, differentiated on the spot."""

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from mimicry.attention import Attention, LinearAttention, SoftmaxAttention
from mimicry.attention.backend import announce
from mimicry.attention.capture import Captured
from mimicry.objectives import (
    DistillationObjectives,
    soft_cross_entropy,
    soft_cross_entropy_of_logs,
    streamed_soft_cross_entropy,
    unexplained_variance,
)
from mimicry.shapes import Queries, QueryMask, Scalar

# From as many keys on, the loss is streamed. On one CPU thread it is as fast as stored weights at 128 tokens or faster,
# 1.6 to 2.4 times as fast at 256. Elsewhere it is for its memory: its many small operations were not timed there.
STREAMED_TOKENS, STREAMED_TOKENS_ON_ACCELERATORS = 128, 1024
# Queries whose weights are stored at a time where a long causal sequence cannot be streamed.
ROWS = 128


@dataclass(frozen=True)
class ForcedLayer:
    """One layer's losses on its teacher's states, without their graphs.

    Attributes:
        terms: `attention`, its least value `entropy`, and `output`, as far as they were asked for; unweighted.
        gradients: of their weighted sum, one per parameter that trains.
    """

    terms: dict[str, Scalar]
    gradients: list[Tensor]


def forced_layer(
    teacher: Attention, student: Attention, seen: Captured, objectives: DistillationObjectives
) -> ForcedLayer:
    """Compares `student` with `teacher` on what the latter attended over.

    Gradients are formed here, piece by piece, so that graphs of several layers, or of all pairs of a long causal
    sequence, never exist at the same time.

    Args:
        teacher: softmax attention.
        student: attention of the same sizes; at least one of its parameters requires a gradient.
        seen: what the teacher was given and gave, constants.
        objectives: their weights of `attention` and `output` count.
    """
    parameters = [p for p in student.parameters() if p.requires_grad]
    gradients = [torch.zeros_like(p) for p in parameters]
    terms: dict[str, Tensor] = {}

    def add(name: str, weight: float, piece: Scalar) -> None:
        terms[name] = terms.get(name, torch.zeros_like(piece)) + piece.detach()
        # Training steps end before they go backward; we are still inside one, where autocast would round gradients.
        with torch.autocast(piece.device.type, enabled=False):
            found = torch.autograd.grad(weight * piece, parameters, allow_unused=True)
        for total, gradient in zip(gradients, found, strict=True):
            if gradient is not None:
                total += gradient

    with torch.enable_grad():
        if objectives.attention > 0:
            for piece, entropy in _attention_pieces(teacher, student, seen):
                add("attention", objectives.attention, piece)
                terms["entropy"] = terms.get("entropy", torch.zeros_like(entropy)) + entropy
        if objectives.output > 0:
            outputs = student(seen.q, seen.k, seen.v, seen.key_mask)
            add("output", objectives.output, unexplained_variance(seen.outputs, outputs, seen.key_mask))
    return ForcedLayer(terms, gradients)


def _attention_pieces(teacher: Attention, student: Attention, seen: Captured) -> Iterator[tuple[Scalar, Scalar]]:
    """Parts that add up to the loss, and to the least value it can reach, its teacher's entropy."""
    fewest = STREAMED_TOKENS if seen.k.device.type == "cpu" else STREAMED_TOKENS_ON_ACCELERATORS
    tokens = seen.k.shape[2]
    if tokens < fewest:
        yield _stored(teacher, student, seen, slice(0, tokens))
        return
    if isinstance(teacher, SoftmaxAttention) and isinstance(student, LinearAttention):
        features = student.features(seen.q, seen.k, seen.key_mask)
        if features is not None:
            masks = (seen.key_mask, seen.key_mask)
            yield streamed_soft_cross_entropy(seen.q, seen.k, *features, student.dims.causal, *masks)
            return
        announce("distill: exponents of keys grow too far for one pass, so the loss is formed in blocks of queries")
    if student.dims.causal:
        for start in range(0, tokens, ROWS):
            rows = slice(start, min(start + ROWS, tokens))
            if seen.key_mask is None or seen.key_mask[:, rows].any():
                yield _stored(teacher, student, seen, rows)
    else:
        announce("distill: %s has no streamed loss, so weights of all pairs are stored", type(student).__name__)
        yield _stored(teacher, student, seen, slice(0, tokens))


def _stored(teacher: Attention, student: Attention, seen: Captured, rows: slice) -> tuple[Scalar, Scalar]:
    """The share that some queries have in loss and entropy, from weights written out."""
    keys = slice(0, rows.stop) if student.dims.causal else slice(None)
    q, k = seen.q[:, :, rows], seen.k[:, :, keys]
    key_mask, query_mask = None, None
    if seen.key_mask is not None:
        key_mask, query_mask = seen.key_mask[:, keys], seen.key_mask[:, rows]
    with torch.no_grad():
        target = teacher.weights(q, k, key_mask)
        # Against itself it is the entropy, the least the student can reach.
        entropy = soft_cross_entropy(target, target, query_mask)
        share = _counted(query_mask, q, target.dtype) / _counted(seen.key_mask, seen.q, target.dtype)
    loss = soft_cross_entropy_of_logs(target, student.log_weights(q, k, key_mask), query_mask)
    return share * loss, share * entropy


def _counted(query_mask: QueryMask | None, q: Queries, dtype: torch.dtype) -> Scalar:
    """How many queries count."""
    count = q.new_tensor(q.shape[0] * q.shape[2], dtype=torch.int64) if query_mask is None else query_mask.sum()
    return count.to(dtype)
