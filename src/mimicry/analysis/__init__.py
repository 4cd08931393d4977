"""Pure functions that describe attention weights."""

from mimicry.analysis.entropy import attention_entropy
from mimicry.analysis.fidelity import attention_kl

__all__ = ["attention_entropy", "attention_kl"]
