"""Mixtral without a sliding window."""

from collections.abc import Iterator

from torch import nn
from transformers.models.mixtral.modeling_mixtral import MixtralAttention

from mimicry.conversion.site import AttentionSite, sites_of_class


def sites(model: nn.Module) -> Iterator[AttentionSite]:
    """Every self-attention layer."""
    return sites_of_class(model, MixtralAttention)
