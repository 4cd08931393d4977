"""Qwen 3 without sliding layers."""

from collections.abc import Iterator

from torch import nn
from transformers.models.qwen3.modeling_qwen3 import Qwen3Attention

from mimicry.conversion.site import AttentionSite, sites_of_class


def sites(model: nn.Module) -> Iterator[AttentionSite]:
    """Every self-attention layer."""
    return sites_of_class(model, Qwen3Attention)
