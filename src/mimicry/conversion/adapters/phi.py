"""Phi-1, 1.5 and 2."""

from collections.abc import Iterator

from torch import nn
from transformers.models.phi.modeling_phi import PhiAttention

from mimicry.conversion.site import AttentionSite, sites_of_class


def sites(model: nn.Module) -> Iterator[AttentionSite]:
    """Every self-attention layer."""
    return sites_of_class(model, PhiAttention)
