"""Surgery on copies: canonicalise a model, then swap its attention."""

import copy
from collections.abc import Callable
from typing import TypeVar

import torch
from torch import nn

from mimicry.attention import Attention, SoftmaxAttention
from mimicry.attention.shipped import load_variant
from mimicry.conversion.seam import ATTRIBUTE, IMPLEMENTATION
from mimicry.conversion.site import find_sites

Model = TypeVar("Model", bound=nn.Module)


def convert(model: Model, attn: str | Callable[..., Attention]) -> Model:
    """A copy of `model` whose every self-attention is `attn`; all other weights are equal, `model` is untouched.

    Without training, the maps of a converted model imitate softmax badly: distil them, then finetune.

    Args:
        model: a Hugging Face model of a supported family (BERT and relatives).
        attn: the name of a shipped variant (`conf/attn`), or a factory called once per layer with `dims`.

    Returns:
        The converted copy, in the same train or eval mode. Dropout of attention weights is off in it.

    Raises:
        ValueError: unknown variant, family without a seam, or attention that a linear form cannot honour.

    Source: arXiv 2402.04347, Sec. 4.3 (finetuned and pretrained conversion).
    """
    factory = load_variant(attn) if isinstance(attn, str) else attn
    find_sites(model)
    student = copy.deepcopy(model)
    for site in find_sites(student):
        attention = factory(dims=site.dims)
        example = next(site.module.parameters())
        # Maps are kept in at least float32: a learning rate of 1e-2 on bf16 weights loses most updates.
        attention.to(device=example.device, dtype=torch.promote_types(example.dtype, torch.float32))
        attention.train(site.module.training)
        setattr(site.module, ATTRIBUTE, attention)
    student.set_attn_implementation(IMPLEMENTATION)  # type: ignore[operator]
    return student


def canonicalise(model: Model) -> Model:
    """A copy of `model` that computes the same softmax attention through our seam; logits are unchanged."""
    return convert(model, SoftmaxAttention)
