"""Qwen 1.5, 2 and 2.5 without sliding layers."""

from collections.abc import Iterator

from torch import nn
from transformers.models.qwen2.modeling_qwen2 import Qwen2Attention

from mimicry.conversion.site import AttentionSite, sites_of_class


def sites(model: nn.Module) -> Iterator[AttentionSite]:
    """Every self-attention layer."""
    return sites_of_class(model, Qwen2Attention)
