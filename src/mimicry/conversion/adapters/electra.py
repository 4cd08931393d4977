"""ELECTRA."""

from collections.abc import Iterator

from torch import nn
from transformers.models.electra.modeling_electra import ElectraSelfAttention

from mimicry.conversion.site import AttentionSite, sites_of_class


def sites(model: nn.Module) -> Iterator[AttentionSite]:
    """Every self-attention layer."""
    return sites_of_class(model, ElectraSelfAttention, head_dim="attention_head_size")
