"""Surgery on copies: canonicalise a model, then swap its attention."""

import copy
import itertools
from collections.abc import Iterator, Mapping
from typing import Any, TypeVar

from torch import Tensor, nn

from mimicry.attention import SoftmaxAttention
from mimicry.attention.capture import attention_layers
from mimicry.attention.shipped import load_variant
from mimicry.conversion.converted import mark_converted
from mimicry.conversion.fitting import fit
from mimicry.conversion.layers import Variant, assign_layers
from mimicry.conversion.model_card import base_name
from mimicry.conversion.site import find_sites
from mimicry.conversion.spec import describe_layers

Model = TypeVar("Model", bound=nn.Module)


def convert(
    model: Model, attn: Variant | Mapping[str, Variant], layers: str | int = "all", share_weights: bool = False
) -> Model:
    """A copy of `model` whose chosen self-attentions are `attn`; all other weights are equal, `model` is untouched.

    Without training, the maps of a converted model imitate softmax badly: distil them, then finetune.

    Args:
        model: a Hugging Face model of a supported family, converted before or not.
        attn: the name of a shipped variant (`conf/attn`), a factory called once per layer with `dims`, or several of
            these by layer: `{"0-5": "hedgehog", "6-11": "window_hedgehog"}`.
        layers: which to convert, counted from 0 at the input: `all`, `every:2` (0, 2, 4, ...), `3`, `0-5` or `0,4-7`;
            the others stay as they are: exact softmax, or in a model that is converted already the attention that they
            have, with its trained parameters. Only `all` where `attn` names the layers itself.
        share_weights: instead of copies, the converted model holds the very weights and buffers of `model`, which must
            be frozen: one copy in memory for a teacher and its student. Attentions are its own. To train those
            weights, `unshare` them first.

    Returns:
        The converted copy, in the same train or eval mode, still an instance of its class; see
        `mimicry.conversion.converted` for what saving and loading it do. Dropout of attention weights is off in it.

    Raises:
        ValueError: unknown variant, a factory of something else, bad layers, family without a seam, attention that a
            linear form cannot honour, or weights to share that are not frozen.

    Source: arXiv 2402.04347, Sec. 4.3 (finetuned and pretrained conversion).
    """
    variants = assign_layers(attn, layers, depth=len(find_sites(model)))
    converted = getattr(model.config, "mimicry", None)
    elsewhere = SoftmaxAttention if converted is None else None
    factories = [
        elsewhere if variant is None else load_variant(variant) if isinstance(variant, str) else variant
        for variant in variants
    ]
    student = copy.deepcopy(model, _shared(model) if share_weights else {})
    fit(student, factories)
    mark_converted(student, describe_layers(factories, converted and converted["attention"]), base_name(model))
    return student


def canonicalise(model: Model, share_weights: bool = False) -> Model:
    """A copy of `model` that computes the same softmax attention through our seam; logits are unchanged.

    `share_weights` is that of `convert`.
    """
    return convert(model, SoftmaxAttention, share_weights=share_weights)


def unshare(student: Model) -> Model:
    """Gives `student`, in place, copies of the weights and buffers that `share_weights` left with another model.

    After it, training `student` touches nothing else. Its attentions are its own already and keep their parameters;
    weights tied within it stay tied, and frozen ones frozen: `requires_grad_(True)` is for the caller to say.
    """
    # What a memo holds stays as it is; copies are added to it, which keeps ties.
    memo = {id(x): x for layer in attention_layers(student).values() for x in _tensors(layer)}
    for module in student.modules():
        held = itertools.chain(module.named_parameters(recurse=False), module.named_buffers(recurse=False))
        for name, tensor in list(held):
            setattr(module, name, copy.deepcopy(tensor, memo))
    return student


def _shared(model: nn.Module) -> dict[int, Any]:
    """The memo that makes `copy.deepcopy` keep every weight and buffer of `model` as it is."""
    swapped = {id(x) for layer in attention_layers(model).values() for x in _tensors(layer)}
    shared = {id(x): x for x in _tensors(model) if id(x) not in swapped}
    trainable = sum(x.requires_grad for x in shared.values())
    if trainable:
        raise ValueError(
            f"share_weights=True needs frozen weights, got {trainable} that train: call model.requires_grad_(False)"
        )
    return shared


def _tensors(module: nn.Module) -> Iterator[Tensor]:
    return itertools.chain(module.parameters(), module.buffers())
