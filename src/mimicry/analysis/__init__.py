"""Pure functions that describe attention weights."""

from mimicry.analysis.entropy import attention_entropy, normalised_entropy
from mimicry.analysis.fidelity import attention_kl, output_cosine, top_k_agreement, total_variation
from mimicry.analysis.monotonicity import isotonic_r2, kendall, spearman

__all__ = [
    "attention_entropy",
    "attention_kl",
    "isotonic_r2",
    "kendall",
    "normalised_entropy",
    "output_cosine",
    "spearman",
    "top_k_agreement",
    "total_variation",
]
