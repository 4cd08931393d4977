"""What training minimises."""

from mimicry.objectives.distillation import soft_cross_entropy, soft_cross_entropy_of_logs
from mimicry.objectives.given import with_gradients
from mimicry.objectives.matching import relative_error, unexplained_variance
from mimicry.objectives.predictions import logit_divergence
from mimicry.objectives.streamed import streamed_soft_cross_entropy
from mimicry.objectives.terms import DistillationObjectives

__all__ = [
    "DistillationObjectives",
    "logit_divergence",
    "relative_error",
    "soft_cross_entropy",
    "soft_cross_entropy_of_logs",
    "streamed_soft_cross_entropy",
    "unexplained_variance",
    "with_gradients",
]
