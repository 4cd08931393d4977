"""Which layers of a model are converted, and to what: specs such as `0-5`, and variants per layer."""

import inspect
import itertools
import re
from collections.abc import Callable, Mapping
from typing import Any

from mimicry.attention import Attention

# A shipped variant's name, or a factory called once per layer with `dims`.
Variant = str | Callable[..., Attention]

_EVERY = re.compile(r"every:([1-9][0-9]*)")
_LIST = re.compile(r"[0-9]+(-[0-9]+)?(,[0-9]+(-[0-9]+)?)*")


def check_layers(layers: str | int) -> None:
    """Refuses a layer spec that is wrong for models of any depth; `choose_layers` tells what a spec may be.

    Raises:
        ValueError: if the spec cannot be read, or names layers in reverse or twice.
    """
    if layers != "all" and not _EVERY.fullmatch(str(layers)):
        _listed(layers)


def choose_layers(layers: str | int, depth: int) -> list[int]:
    """The layers, in order, that a spec names in a model of `depth` layers, counted from 0 at the input.

    Args:
        layers: `all`; `every:N`, which is 0, N, 2N, ...; or a list of numbers and ranges, last layer included: `3`,
            `0-5`, `0,4-7`.
        depth: number of layers of the model, >= 1.

    Raises:
        ValueError: if the spec cannot be read, names layers in reverse or twice, or one that the model does not have.
    """
    if layers == "all":
        return list(range(depth))
    if every := _EVERY.fullmatch(str(layers)):
        return list(range(0, depth, int(every[1])))
    ranges = _listed(layers)
    if ranges[-1].stop > depth:
        raise ValueError(f"layers must be within 0-{depth - 1}, those of the model, got {layers!r}")
    return [layer for chosen in ranges for layer in chosen]


def assign_layers(attn: Variant | Mapping[str, Variant], layers: str | int, depth: int) -> list[Variant | None]:
    """What each of a model's `depth` layers becomes: `attn` where chosen; None where it stays as it is.

    Args:
        attn: one variant for the chosen layers, or several by layer spec: `{"0-5": "hedgehog", "6-11": "elu"}`.
        layers: as in `choose_layers`; `all` where `attn` names the layers itself.
        depth: number of layers of the model, >= 1.

    Raises:
        ValueError: what is no variant, a bad spec, a layer given two variants, no variant at all, or layers chosen
            twice over.
    """
    if not isinstance(attn, Mapping):
        attn = {str(layers): attn}
    elif layers != "all":
        raise ValueError(f"layers must be all where attn has variants by layer, got {layers!r}")
    assigned: dict[int, Variant] = {}
    for spec, variant in attn.items():
        _check_variant(variant)
        chosen = choose_layers(spec, depth)
        if taken := sorted(assigned.keys() & set(chosen)):
            raise ValueError(f"attn must name each layer once, got layer {taken[0]} in {list(attn)}")
        assigned |= dict.fromkeys(chosen, variant)
    if not assigned:
        raise ValueError("attn must name a variant for some layer, got an empty mapping")
    return [assigned.get(layer) for layer in range(depth)]


def _check_variant(variant: Any) -> None:
    """Refuses what is neither a name nor can be called with `dims`, before a model is copied."""
    if isinstance(variant, str):
        return
    if not callable(variant):
        raise ValueError(f"attn must be a variant's name, a factory, or a mapping of layers to these, got {variant!r}")
    try:
        inspect.signature(variant).bind(dims=None)
    except (TypeError, ValueError) as error:
        raise ValueError(f"attn must be a factory that takes dims, got {variant!r} ({error})") from error


def _listed(layers: str | int) -> list[range]:
    """The ranges of a list such as `0,4-7`, sorted."""
    if not _LIST.fullmatch(str(layers)):
        raise ValueError(f"layers must be all, every:N or a list such as 3, 0-5 or 0,4-7; got {layers!r}")
    ranges = []
    for part in str(layers).split(","):
        first, last = int(part.split("-")[0]), int(part.split("-")[-1])
        if last < first:
            raise ValueError(f"layers must be ranges from low to high, got {part!r}")
        ranges.append(range(first, last + 1))
    ranges.sort(key=lambda chosen: chosen.start)
    if any(after.start < before.stop for before, after in itertools.pairwise(ranges)):
        raise ValueError(f"layers must name each layer once, got {layers!r}")
    return ranges
