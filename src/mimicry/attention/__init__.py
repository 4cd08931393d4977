"""Attentions: pure functions of q, k, v and a key mask."""

from mimicry.attention.base import Attention, AttentionDims
from mimicry.attention.linear import LinearAttention
from mimicry.attention.softmax import SoftmaxAttention
from mimicry.attention.state import LinearState

__all__ = ["Attention", "AttentionDims", "LinearAttention", "LinearState", "SoftmaxAttention"]
