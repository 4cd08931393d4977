"""How closely one attention mimics another."""

import torch

from mimicry.analysis.entropy import check_rows
from mimicry.shapes import KeyMask, Outputs, PerQuery, Visible, Weights


def attention_kl(teacher: Weights, student: Weights, key_mask: KeyMask | None = None) -> PerQuery:
    """Divergence of each query's distribution from the teacher's, KL(a || b) = sum_j a_j log(a_j / b_j).

    Args:
        teacher: a, the reference weights; rows sum to 1.
        student: b, the weights that imitate it; rows sum to 1.
        key_mask: True where a key may be attended to; masked keys contribute nothing.

    Returns:
        KL in nats, >= 0, and 0 only where both agree. Student weights below the smallest normal float count as that.

    Raises:
        ValueError: if a weight is negative or a row does not sum to 1 within 1e-4.

    Source: arXiv 2402.04347, Sec. 5 (attention weight fidelity).
    """
    teacher, student = check_rows("teacher", teacher, key_mask), check_rows("student", student, key_mask)
    floor = torch.finfo(student.dtype).tiny
    return (torch.special.xlogy(teacher, teacher) - teacher * student.clamp(min=floor).log()).sum(dim=-1)


def total_variation(teacher: Weights, student: Weights, key_mask: KeyMask | None = None) -> PerQuery:
    """Half the L1 distance, TV(a, b) = sum_j |a_j - b_j| / 2: the share of attention that stands on other keys.

    Args:
        teacher: a; rows sum to 1.
        student: b; rows sum to 1.
        key_mask: True where a key may be attended to.

    Returns:
        Between 0 and 1. By Pinsker's inequality at most sqrt(KL(a || b) / 2).

    Raises:
        ValueError: if a weight is negative or a row does not sum to 1 within 1e-4.
    """
    teacher, student = check_rows("teacher", teacher, key_mask), check_rows("student", student, key_mask)
    return (teacher - student).abs().sum(dim=-1) / 2


def top_k_agreement(teacher: Weights, student: Weights, visible: Visible, k: int) -> PerQuery:
    """Share of the teacher's k most attended keys that are among the student's: does it attend where the teacher does.

    Keys that tie for the last places share them, so that no order of keys counts: with p_j and q_j the shares of key j
    in the top k of either, the agreement is sum_j min(p_j, q_j) / k.

    Args:
        teacher: weights to agree with.
        student: weights of the same shape.
        visible: keys that each query may attend to.
        k: keys compared, >= 1.

    Returns:
        Between 0 and 1; NaN for queries that see no more than k keys, which cannot disagree.

    Raises:
        ValueError: if k is below 1.
    """
    if k < 1:
        raise ValueError(f"k must be >= 1, got {k}")
    seen = visible.sum(dim=-1)
    if k > teacher.shape[-1]:
        return teacher.new_full(teacher.shape[:-1], torch.nan)
    shared = torch.minimum(_top_shares(teacher, visible, k), _top_shares(student, visible, k)).sum(dim=-1)
    return torch.where(seen > k, shared / k, torch.nan)


def _top_shares(weights: Weights, visible: Visible, k: int) -> Weights:
    """1 for keys above the k-th largest weight; those equal to it share the places that are left."""
    weights = weights.masked_fill(~visible, -1.0)
    last = weights.topk(k, dim=-1).values[..., -1:]
    above, equal = (weights > last).to(weights.dtype), (weights == last).to(weights.dtype)
    places = k - above.sum(dim=-1, keepdim=True)
    return above + equal * (places / equal.sum(dim=-1, keepdim=True))


def output_cosine(teacher: Outputs, student: Outputs) -> PerQuery:
    """Cosine of the angle between both attentions' outputs of each query.

    Returns:
        Between -1 and 1, in at least float32; NaN where an output is zero and so has no direction.
    """
    dtype = torch.promote_types(teacher.dtype, torch.float32)
    teacher, student = teacher.to(dtype), student.to(dtype)
    norms = teacher.norm(dim=-1) * student.norm(dim=-1)
    return torch.where(norms > 0, (teacher * student).sum(dim=-1) / norms, torch.nan).clamp(-1.0, 1.0)
