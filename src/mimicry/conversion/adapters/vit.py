"""ViT, and DeiT without a distillation token, whose checkpoints are of the same architecture."""

from collections.abc import Iterator

from torch import nn
from transformers.models.vit.modeling_vit import ViTAttention

from mimicry.conversion.site import AttentionSite, sites_of_class

# The class token, which stands before the patches.
SPECIAL_TOKENS = 1


def sites(model: nn.Module) -> Iterator[AttentionSite]:
    """Every self-attention layer."""
    return sites_of_class(model, ViTAttention)
