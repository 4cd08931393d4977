"""What training minimises."""

from mimicry.objectives.distillation import soft_cross_entropy, soft_cross_entropy_of_logs

__all__ = ["soft_cross_entropy", "soft_cross_entropy_of_logs"]
