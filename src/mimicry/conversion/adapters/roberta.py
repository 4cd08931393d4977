"""RoBERTa."""

from collections.abc import Iterator

from torch import nn
from transformers.models.roberta.modeling_roberta import RobertaSelfAttention

from mimicry.conversion.site import AttentionSite, sites_of_class

# Its positions start after that of padding.
POSITIONS_AFTER_PADDING = True


def sites(model: nn.Module) -> Iterator[AttentionSite]:
    """Every self-attention layer."""
    return sites_of_class(model, RobertaSelfAttention, head_dim="attention_head_size")
