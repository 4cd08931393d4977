"""Llama, and the many that share its architecture: SmolLM, TinyLlama, Vicuna, Yi."""

from collections.abc import Iterator

from torch import nn
from transformers.models.llama.modeling_llama import LlamaAttention

from mimicry.conversion.site import AttentionSite, sites_of_class


def sites(model: nn.Module) -> Iterator[AttentionSite]:
    """Every self-attention layer."""
    return sites_of_class(model, LlamaAttention)
