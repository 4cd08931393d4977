"""DistilBERT."""

from collections.abc import Iterator

from torch import nn
from transformers.models.distilbert.modeling_distilbert import DistilBertSelfAttention

from mimicry.conversion.site import AttentionSite, sites_of_class


def sites(model: nn.Module) -> Iterator[AttentionSite]:
    """Every self-attention layer."""
    return sites_of_class(model, DistilBertSelfAttention, head_dim="attention_head_size")
