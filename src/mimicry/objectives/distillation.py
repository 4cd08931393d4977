"""The attention distillation loss."""

import torch

from mimicry.shapes import LogWeights, QueryMask, Scalar, Weights


def soft_cross_entropy(teacher: Weights, student: Weights, query_mask: QueryMask | None = None) -> Scalar:
    """Cross-entropy of the student's weights b under the teacher's a, -sum_j a_ij log b_ij, averaged.

    Its least value is the mean entropy of `teacher`, reached when the two agree; the gap to it is the mean KL.

    Args:
        teacher: a, softmax weights; no gradient flows into them.
        student: b, linear weights over the same keys; zero where a key is masked.
        query_mask: True for queries that count; padded ones are left out of the mean.

    Returns:
        Mean over batch, heads and counted queries, in nats.

    Raises:
        ValueError: if no query counts.

    Source: arXiv 2402.04347, Eq. 4; the reduction is that of the authors' later code.
    """
    # The floor only meets weights that underflowed; masked keys have a = 0 and add nothing.
    floor = torch.finfo(student.dtype).tiny
    return soft_cross_entropy_of_logs(teacher, student.clamp(min=floor).log(), query_mask)


def soft_cross_entropy_of_logs(
    teacher: Weights, log_student: LogWeights, query_mask: QueryMask | None = None
) -> Scalar:
    """`soft_cross_entropy` of a student given by log b, finite also where a key is masked."""
    loss = -(teacher.detach() * log_student).sum(dim=-1)
    if query_mask is None:
        return loss.mean()
    count = query_mask.sum() * loss.shape[1]
    if count == 0:
        raise ValueError("query_mask must keep at least one query, got none")
    return (loss * query_mask[:, None, :]).sum() / count
