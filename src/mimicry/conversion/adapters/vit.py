"""ViT, and DeiT without a distillation token, whose checkpoints are of the same architecture."""

from collections.abc import Iterator

from torch import nn
from transformers.models.vit.modeling_vit import ViTAttention

from mimicry.attention import AttentionDims
from mimicry.conversion.site import AttentionSite

# The class token, which stands before the patches.
SPECIAL_TOKENS = 1


def sites(model: nn.Module) -> Iterator[AttentionSite]:
    """Every self-attention layer."""
    for name, module in model.named_modules():
        if isinstance(module, ViTAttention):
            dims = AttentionDims(module.num_attention_heads, module.head_dim, causal=module.is_causal)
            yield AttentionSite(name, module, dims)
