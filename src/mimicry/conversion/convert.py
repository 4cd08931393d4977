"""Surgery on copies: canonicalise a model, then swap its attention."""

import copy
from collections.abc import Mapping
from typing import Any, TypeVar

import torch
from torch import nn

from mimicry.attention import SoftmaxAttention
from mimicry.attention.shipped import load_variant
from mimicry.conversion.layers import Variant, assign_layers
from mimicry.conversion.seam import ATTRIBUTE, IMPLEMENTATION
from mimicry.conversion.site import find_sites

Model = TypeVar("Model", bound=nn.Module)


def convert(model: Model, attn: Variant | Mapping[str, Variant], layers: str | int = "all") -> Model:
    """A copy of `model` whose chosen self-attentions are `attn`; all other weights are equal, `model` is untouched.

    Without training, the maps of a converted model imitate softmax badly: distil them, then finetune.

    Args:
        model: a Hugging Face model of a supported family.
        attn: the name of a shipped variant (`conf/attn`), a factory called once per layer with `dims`, or several of
            these by layer: `{"0-5": "hedgehog", "6-11": "window_hedgehog"}`.
        layers: which to convert, counted from 0 at the input: `all`, `every:2` (0, 2, 4, ...), `3`, `0-5` or `0,4-7`;
            the others keep exact softmax. Only `all` where `attn` names the layers itself.

    Returns:
        The converted copy, in the same train or eval mode. Dropout of attention weights is off in it.

    Raises:
        ValueError: unknown variant, bad layers, family without a seam, or attention that a linear form cannot honour.

    Source: arXiv 2402.04347, Sec. 4.3 (finetuned and pretrained conversion).
    """
    variants = assign_layers(attn, layers, depth=len(find_sites(model)))
    factories = [load_variant(variant) if isinstance(variant, str) else variant for variant in variants]
    student = copy.deepcopy(model)
    for site, factory in zip(find_sites(student), factories, strict=True):
        attention = factory(dims=site.dims)
        example = next(site.module.parameters())
        # Maps are kept in at least float32: a learning rate of 1e-2 on bf16 weights loses most updates.
        attention.to(device=example.device, dtype=torch.promote_types(example.dtype, torch.float32))
        attention.train(site.module.training)
        setattr(site.module, ATTRIBUTE, attention)
    student.set_attn_implementation(IMPLEMENTATION)  # type: ignore[operator]
    _check_swapped(student)
    return student


def canonicalise(model: Model) -> Model:
    """A copy of `model` that computes the same softmax attention through our seam; logits are unchanged."""
    return convert(model, SoftmaxAttention)


def _check_swapped(student: nn.Module) -> None:
    """Refuses models that kept their own attention: the host library skips those it cannot, with a log line only."""
    for site in find_sites(student):
        host: Any = site.module
        if host.config._attn_implementation != IMPLEMENTATION:
            raise ValueError(
                f"model: the host library does not swap the attention of {type(student).__name__}, a class defined in "
                f"{type(student).__module__!r}; define it in an importable module"
            )
