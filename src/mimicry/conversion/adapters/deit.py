"""DeiT with a distillation token; without one its checkpoints are of the family `vit`."""

from collections.abc import Iterator

from torch import nn
from transformers.models.deit.modeling_deit import DeiTAttention

from mimicry.conversion.site import AttentionSite, sites_of_class

# The class token and the distillation token, which stand before the patches.
SPECIAL_TOKENS = 2


def sites(model: nn.Module) -> Iterator[AttentionSite]:
    """Every self-attention layer."""
    return sites_of_class(model, DeiTAttention)
