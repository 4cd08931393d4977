"""Phi-3 and Phi-4 without a sliding window."""

from collections.abc import Iterator

from torch import nn
from transformers.models.phi3.modeling_phi3 import Phi3Attention

from mimicry.conversion.site import AttentionSite, sites_of_class


def sites(model: nn.Module) -> Iterator[AttentionSite]:
    """Every self-attention layer."""
    return sites_of_class(model, Phi3Attention)
