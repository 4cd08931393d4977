"""Attentions: pure functions of q, k, v and a key mask."""

from mimicry.attention.base import Attention, AttentionDims
from mimicry.attention.linear import LinearAttention
from mimicry.attention.sliding_window import SlidingWindowAttention
from mimicry.attention.softmax import SoftmaxAttention
from mimicry.attention.state import LinearState
from mimicry.attention.window import WindowLinearAttention, ablated

__all__ = [
    "Attention",
    "AttentionDims",
    "LinearAttention",
    "LinearState",
    "SlidingWindowAttention",
    "SoftmaxAttention",
    "WindowLinearAttention",
    "ablated",
]
