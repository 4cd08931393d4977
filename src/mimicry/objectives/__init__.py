"""What training minimises."""

from mimicry.objectives.distillation import soft_cross_entropy

__all__ = ["soft_cross_entropy"]
