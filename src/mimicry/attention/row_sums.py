"""Sums over some of the keys, row by row: what parts of one attention add up to under one normaliser."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch

from mimicry.attention.features import finite
from mimicry.shapes import Outputs, RowScores


@dataclass(frozen=True)
class RowSums:
    """sum_j s_ij v_j and sum_j s_ij of positive scores s over some keys, both divided by exp(shift_i).

    The largest exponent of a row is its shift, so that the denominator is about 1 or more, and exactly 0 in a row that
    sees none of the keys. Without values, v is the identity, and the numerator is the scores themselves.

    Args:
        numerator: sums of scores times values, or scores.
        denominator: sums of scores.
        shift: constant to autograd unless a learnt factor exp(shift) belongs to the scores.
    """

    numerator: Outputs
    denominator: RowScores
    shift: RowScores


def add(parts: Sequence[RowSums]) -> RowSums:
    """All parts as one, brought to the largest shift of each row: a common factor, so nothing changes but numbers.

    The shift is -inf where a row sees no key of any part.
    """
    shifts = torch.stack([part.shift.masked_fill(part.denominator == 0, -torch.inf) for part in parts])
    largest = shifts.detach().amax(dim=0)
    factors = (shifts - finite(largest)).exp()
    weighed = list(zip(factors, parts, strict=True))
    numerator = torch.stack([factor[..., None] * part.numerator for factor, part in weighed]).sum(dim=0)
    denominator = torch.stack([factor * part.denominator for factor, part in weighed]).sum(dim=0)
    return RowSums(numerator, denominator, largest)


def combine(parts: Sequence[RowSums]) -> Outputs:
    """All numerators over all denominators; rows without any key give 0."""
    total = add(parts)
    return total.numerator / (total.denominator + (total.denominator == 0))[..., None]
