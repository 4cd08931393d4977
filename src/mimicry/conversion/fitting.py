"""Puts attentions in the places of a host model's own, when it is converted and when a saved one is built."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import nn

from mimicry.attention import Attention
from mimicry.conversion.seam import ATTRIBUTE, IMPLEMENTATION, attach, switch_on
from mimicry.conversion.site import find_sites
from mimicry.conversion.spec import Factory


def fit(model: nn.Module, factories: Sequence[Factory | None], dtype: torch.dtype = torch.float32) -> None:
    """Attaches what each factory builds to one self-attention of a Hugging Face `model`, and makes the model use it.

    Args:
        model: changed in place.
        factories: one for each self-attention, in order of depth; None keeps the attention that is attached to it.
        dtype: of the maps, which are in no less than that of the host's weights. Float32 is what they are trained in:
            a learning rate of 1e-2 on bf16 weights loses most updates.

    Raises:
        ValueError: if a factory builds no attention, or the host library cannot swap that of the model.
    """
    for site, factory in zip(find_sites(model), factories, strict=True):
        if factory is None:
            continue
        example = next(site.module.parameters())
        with _real_float32():
            attention = factory(dims=site.dims)
        if not isinstance(attention, Attention):
            raise ValueError(
                f"attn must be a factory of an Attention, got one of {type(attention).__name__}: {factory!r}"
            )
        # A host that is being loaded has no weights yet, and lies on no device.
        device = "cpu" if example.is_meta else example.device
        attention.to(device=device, dtype=torch.promote_types(example.dtype, dtype))
        attention.train(site.module.training)
        attach(site.module, attention)
    switch_on(model)
    _check_swapped(model)


def maps_dtype(model: nn.Module) -> torch.dtype | None:
    """The dtype of the attentions' weights and tables; None where they have none."""
    attentions = [getattr(site.module, ATTRIBUTE) for site in find_sites(model)]
    tensors = (x for attention in attentions for x in (*attention.parameters(), *attention.buffers()))
    return next((x.dtype for x in tensors if x.is_floating_point()), None)


@contextmanager
def _real_float32() -> Iterator[None]:
    """Tables and random rows are computed on the spot, whatever device and dtype a host is being loaded with."""
    before = torch.get_default_dtype()
    torch.set_default_dtype(torch.float32)
    try:
        with torch.device("cpu"):
            yield
    finally:
        torch.set_default_dtype(before)


def _check_swapped(model: nn.Module) -> None:
    """Refuses models that kept their own attention: the host library skips those it cannot, with a log line only."""
    for site in find_sites(model):
        host: Any = site.module
        if host.config._attn_implementation != IMPLEMENTATION:
            raise ValueError(
                f"model: the host library does not swap the attention of {type(model).__name__}, a class defined in "
                f"{type(model).__module__!r}; define it in an importable module"
            )
