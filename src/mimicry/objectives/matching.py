"""How far outputs and hidden states of a student are from its teacher's, in units that every layer shares."""

import torch
from torch import Tensor

from mimicry.shapes import Hidden, Outputs, QueryMask, Scalar

# Outputs that vary by less than this share of their size count as constant: rounding is not worth fitting.
CONSTANT = 1.0e-6


def unexplained_variance(teacher: Outputs, student: Outputs, query_mask: QueryMask | None = None) -> Scalar:
    """sum_i |y'_i - y_i|^2 / sum_i |y_i - mean_i y_i|^2 over the queries i that count, of all heads together.

    0 when the student is exact, 1 when it gives each head's mean output whatever the query. Sums take float32 or more.

    Args:
        teacher: y; no gradient flows into them.
        student: y'.
        query_mask: True for queries that count.

    Returns:
        A share of the variance of `teacher` over the batch, >= 0; so not the mean of that of its parts.

    Raises:
        ValueError: if no query counts.

    Source: the squared error is that of attention transfer in LoLCATs, arXiv 2410.10254.
    Deviation: theirs is not divided by anything. Outputs of layers differ in scale by orders of magnitude; as a share,
    every layer weighs the same, and so does the term beside others whatever the model.
    """
    teacher, student = _at_least_float32(teacher.detach(), student)
    error = student - teacher
    if query_mask is None:
        centred = teacher - teacher.mean(dim=(0, 2), keepdim=True)
    else:
        mask = query_mask[:, None, :, None]
        # Not a product: what stands in padded places may be infinite.
        error, teacher = error.masked_fill(~mask, 0.0), teacher.masked_fill(~mask, 0.0)
        centred = (teacher - teacher.sum(dim=(0, 2), keepdim=True) / _count(query_mask)) * mask
    variance = torch.maximum(centred.square().sum(), CONSTANT * teacher.square().sum())
    return error.square().sum() / variance.clamp(min=torch.finfo(variance.dtype).tiny)


def relative_error(teacher: Hidden, student: Hidden, token_mask: QueryMask | None = None) -> Scalar:
    """|h'_i - h_i|^2 / |h_i|^2, mean over the tokens i that count.

    Relative token by token, since the layers that read hidden states normalise each token: the first token of a
    language model may be a hundred times as large as the others, and would be all that a mean of squares sees.

    Args:
        teacher: h, hidden states of one layer; no gradient flows into them.
        student: h'.
        token_mask: True for tokens that count.

    Raises:
        ValueError: if no token counts.
    """
    teacher, student = _at_least_float32(teacher.detach(), student)
    error = student - teacher
    if token_mask is not None:
        # Not a product: what stands in padded places may be infinite.
        error = error.masked_fill(~token_mask[..., None], 0.0)
    size = teacher.square().sum(dim=-1).clamp(min=torch.finfo(teacher.dtype).tiny)
    errors = error.square().sum(dim=-1) / size
    return errors.mean() if token_mask is None else errors.sum() / _count(token_mask)


def _at_least_float32(teacher: Tensor, student: Tensor) -> tuple[Tensor, Tensor]:
    dtype = torch.promote_types(torch.promote_types(teacher.dtype, student.dtype), torch.float32)
    return teacher.to(dtype), student.to(dtype)


def _count(mask: Tensor) -> Tensor:
    count = mask.sum()
    if count == 0:
        raise ValueError("query_mask must keep at least one query, got none")
    return count
