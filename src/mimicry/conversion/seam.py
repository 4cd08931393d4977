"""The one place where attention is swapped: a function and a mask registered with the host library."""

from typing import Any

import torch
from torch import Tensor, nn
from transformers import AttentionInterface
from transformers.masking_utils import AttentionMaskInterface, flash_attention_mask

from mimicry.attention import Attention

# The implementation name under which host models find us, and the submodule name our attentions carry in them.
IMPLEMENTATION = "mimicry"
ATTRIBUTE = "mimicry_attention"


def attend(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    scaling: float | None = None,
    dropout: float = 0.0,
    **kwargs: Any,
) -> tuple[Tensor, None]:
    """Runs the attention attached to the host's `module` on projected states.

    Shapes follow the host library: q is (batch, heads, tokens, head_dim), k and v may have fewer, grouped heads, the
    output is (batch, tokens, heads, head_dim). Dropout of attention weights is not applied: a linear attention forms
    no weights to drop, and teacher and student are treated alike.

    Raises:
        ValueError: if nothing is attached, the scores are scaled in another way, or the mask is not a padding mask.
    """
    attention = getattr(module, ATTRIBUTE, None)
    if not isinstance(attention, Attention):
        raise ValueError(f"{type(module).__name__} carries no converted attention: use mimicry.convert on the model")
    if scaling is not None and abs(scaling - query.shape[-1] ** -0.5) > 1e-6:
        raise ValueError(f"scaling must be 1/sqrt(head_dim) = {query.shape[-1] ** -0.5:.6f}, got {scaling}")
    if attention_mask is not None and attention_mask.ndim != 2:
        raise ValueError(f"attention_mask must be a (batch, tokens) padding mask, got {tuple(attention_mask.shape)}")
    groups = query.shape[1] // key.shape[1]
    if groups > 1:
        key, value = key.repeat_interleave(groups, dim=1), value.repeat_interleave(groups, dim=1)
    key_mask = None if attention_mask is None else attention_mask.to(torch.bool)
    return attention(query, key, value, key_mask).transpose(1, 2), None


AttentionInterface.register(IMPLEMENTATION, attend)
# Without a mask function under the same name the host library passes no mask at all and padding would be attended to.
# This one hands over the (batch, tokens) padding mask as it is, and None when nothing is padded.
AttentionMaskInterface.register(IMPLEMENTATION, flash_attention_mask)
