"""GPT-BigCode: SantaCoder and the first StarCoder."""

from collections.abc import Iterator

from torch import nn
from transformers.models.gpt_bigcode.modeling_gpt_bigcode import GPTBigCodeAttention

from mimicry.conversion.site import AttentionSite, sites_of_class


def sites(model: nn.Module) -> Iterator[AttentionSite]:
    """Every self-attention layer."""
    return sites_of_class(model, GPTBigCodeAttention)
