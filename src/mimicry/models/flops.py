"""How many floating-point operations training needs, for the share of a device's peak that a run reaches."""

from torch import nn

from mimicry.attention import Attention, LinearAttention, SlidingWindowAttention, WindowLinearAttention

# Multiply and add, in the forward pass and twice in the backward pass.
PER_WEIGHT = 6


def weight_flops(*modules: nn.Module) -> int:
    """Of all weights of modules, for one vector that they are multiplied with, forward and backward."""
    return PER_WEIGHT * sum(parameter.numel() for module in modules for parameter in module.parameters())


def attention_flops(attention: Attention, tokens: int) -> int:
    """Of the two products of one attention, with keys and with values, for one sequence, forward and backward.

    12 for each token, unit of width and key, where linear attention has features in place of keys if they are fewer.
    Causal attention counts as full. Maps count as weights, not here. Source: arXiv 2204.02311, App. B.
    """
    reach = 0
    if isinstance(attention, SlidingWindowAttention | WindowLinearAttention):
        size = attention.window.size
        reach = (size if attention.dims.causal else 2 * size - 1) + attention.window.num_sinks
    if isinstance(attention, LinearAttention | WindowLinearAttention):
        reach += attention.query_map.feature_dim
    reach = min(reach, tokens) if reach else tokens
    return 2 * PER_WEIGHT * tokens * reach * attention.dims.num_heads * attention.dims.head_dim
