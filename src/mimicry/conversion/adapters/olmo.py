"""OLMo."""

from collections.abc import Iterator

from torch import nn
from transformers.models.olmo.modeling_olmo import OlmoAttention

from mimicry.conversion.site import AttentionSite, sites_of_class


def sites(model: nn.Module) -> Iterator[AttentionSite]:
    """Every self-attention layer."""
    return sites_of_class(model, OlmoAttention)
