"""Hedgehog linear attention in Triton: map, chunked products and normaliser in one kernel.

Nothing here imports Triton until it is used: ask `is_available`, then import `fused` or `decoding`.
"""

from collections.abc import Iterable
from importlib.util import find_spec

import torch

# Head dims, value widths and numbers of features that the kernels are made for.
WIDTHS = (16, 32, 64, 128)
DTYPES = (torch.float32, torch.float16, torch.bfloat16)


def is_available() -> bool:
    """Whether Triton is installed. Its kernels need a GPU, or TRITON_INTERPRET=1 before Triton is first imported."""
    return find_spec("triton") is not None


def unfit(sizes: Iterable[int], dtype: torch.dtype, causal: bool, queries: int, keys: int) -> str | None:
    """Why the kernels cannot run inputs like these, or None.

    Args:
        sizes: head dim, value width and number of features.
        dtype: of q, k and v.
        causal: direction.
        queries: tokens.
        keys: tokens.
    """
    largest = 64 if dtype == torch.float32 else 128
    wrong = [size for size in sizes if size not in WIDTHS or size > largest]
    if wrong:
        return f"widths and numbers of features must be among {WIDTHS}, to {largest} for {dtype}; got {wrong[0]}"
    if dtype not in DTYPES:
        return f"dtype must be one of {', '.join(map(str, DTYPES))}, got {dtype}"
    if causal and queries != keys:
        return f"queries must be as many as keys ({keys}) when causal, got {queries}"
    return None
