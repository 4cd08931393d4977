"""BERT, and the MiniLM encoders that share its architecture."""

from collections.abc import Iterator

from torch import nn
from transformers.models.bert.modeling_bert import BertSelfAttention

from mimicry.conversion.site import AttentionSite, sites_of_class


def sites(model: nn.Module) -> Iterator[AttentionSite]:
    """Every self-attention layer."""
    return sites_of_class(model, BertSelfAttention, head_dim="attention_head_size")
