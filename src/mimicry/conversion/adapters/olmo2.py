"""OLMo 2."""

from collections.abc import Iterator

from torch import nn
from transformers.models.olmo2.modeling_olmo2 import Olmo2Attention

from mimicry.conversion.site import AttentionSite, sites_of_class


def sites(model: nn.Module) -> Iterator[AttentionSite]:
    """Every self-attention layer."""
    return sites_of_class(model, Olmo2Attention)
