"""What every model returns, under the names that training reads from host models, and its loss."""

from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from mimicry.shapes import Scalar

# A label that is not scored.
IGNORED = -100


class ModelOutput(NamedTuple):
    """Logits, and the mean cross-entropy in nats where labels were given."""

    loss: Tensor | None
    logits: Tensor


def cross_entropy(logits: Tensor, targets: Tensor) -> Scalar:
    """Mean over the targets that are scored, in at least float32; NaN if none is.

    Args:
        logits: (..., classes).
        targets: (...), classes or -100.
    """
    dtype = torch.promote_types(logits.dtype, torch.float32)
    return F.cross_entropy(logits.flatten(0, -2).to(dtype), targets.flatten(), ignore_index=IGNORED)
