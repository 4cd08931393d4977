"""How closely one attention mimics another."""

import torch

from mimicry.analysis.entropy import check_rows
from mimicry.shapes import KeyMask, PerQuery, Weights


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
