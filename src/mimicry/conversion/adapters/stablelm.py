"""StableLM."""

from collections.abc import Iterator

from torch import nn
from transformers.models.stablelm.modeling_stablelm import StableLmAttention

from mimicry.conversion.site import AttentionSite, sites_of_class


def sites(model: nn.Module) -> Iterator[AttentionSite]:
    """Every self-attention layer."""
    return sites_of_class(model, StableLmAttention)
