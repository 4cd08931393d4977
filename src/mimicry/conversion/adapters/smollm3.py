"""SmolLM 3; its layers without rotary positions convert as well."""

from collections.abc import Iterator

from torch import nn
from transformers.models.smollm3.modeling_smollm3 import SmolLM3Attention

from mimicry.conversion.site import AttentionSite, sites_of_class


def sites(model: nn.Module) -> Iterator[AttentionSite]:
    """Every self-attention layer."""
    return sites_of_class(model, SmolLM3Attention)
