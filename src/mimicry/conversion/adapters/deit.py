"""DeiT with a distillation token; without one its checkpoints are of the family `vit`."""

from collections.abc import Iterator

from torch import nn
from transformers.models.deit.modeling_deit import DeiTAttention

from mimicry.attention import AttentionDims
from mimicry.conversion.site import AttentionSite

# The class token and the distillation token, which stand before the patches.
SPECIAL_TOKENS = 2


def sites(model: nn.Module) -> Iterator[AttentionSite]:
    """Every self-attention layer."""
    for name, module in model.named_modules():
        if isinstance(module, DeiTAttention):
            dims = AttentionDims(module.num_attention_heads, module.head_dim, causal=module.is_causal)
            yield AttentionSite(name, module, dims)
