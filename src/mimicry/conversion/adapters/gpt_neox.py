"""GPT-NeoX and Pythia."""

from collections.abc import Iterator

from torch import nn
from transformers.models.gpt_neox.modeling_gpt_neox import GPTNeoXAttention

from mimicry.conversion.site import AttentionSite, sites_of_class


def sites(model: nn.Module) -> Iterator[AttentionSite]:
    """Every self-attention layer."""
    return sites_of_class(model, GPTNeoXAttention, head_dim="head_size")
