"""GPT-2."""

from collections.abc import Iterator

from torch import nn
from transformers.models.gpt2.modeling_gpt2 import GPT2Attention

from mimicry.conversion.site import AttentionSite, sites_of_class


def sites(model: nn.Module) -> Iterator[AttentionSite]:
    """Every self-attention layer."""
    return sites_of_class(model, GPT2Attention)
