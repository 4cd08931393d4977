"""What training minimises."""

from mimicry.objectives.distillation import soft_cross_entropy, soft_cross_entropy_of_logs
from mimicry.objectives.streamed import streamed_soft_cross_entropy

__all__ = ["soft_cross_entropy", "soft_cross_entropy_of_logs", "streamed_soft_cross_entropy"]
