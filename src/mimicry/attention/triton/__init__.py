"""Hedgehog linear attention in Triton: map, chunked products and normaliser in one kernel.

Nothing here imports Triton until it is used: ask `is_available`, then import `fused` or `decoding`.
"""

from importlib.util import find_spec


def is_available() -> bool:
    """Whether Triton is installed. Its kernels need a GPU, or TRITON_INTERPRET=1 before Triton is first imported."""
    return find_spec("triton") is not None
