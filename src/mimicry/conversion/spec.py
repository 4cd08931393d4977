"""What the attention of each layer is, as plain data that a config file holds, and the factories it stands for.

The description of a factory is what `conf/attn` says to Hydra: `_target_`, `_partial_: true` and options, nested. It is
written with every option, the defaults included: a default that changes later does not change a saved model.
"""

import functools
import importlib
import inspect
import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import mimicry.attention
from mimicry.attention import Attention
from mimicry.attention.feature_maps.base import FeatureMap
from mimicry.attention.shipped import build, load_variant, shipped_variants
from mimicry.conversion.layers import choose_layers
from mimicry.schema import check_options

Factory = Callable[..., Attention]
# Plain data: layer specs such as `0-5`, and what their attention is; a text in its place says why that cannot be told.
AttentionSpec = Mapping[str, Any]

PACKAGE = "mimicry.attention"
# Forms of the same sums that not every machine can run: a saved model chooses anew where it is loaded.
GPU_BACKENDS = ("triton", "fla")
_PATH = re.compile(rf"{re.escape(PACKAGE)}(\.[A-Za-z_]\w*)+")


def describe(factory: Any) -> dict[str, Any]:
    """The description of a class of `mimicry.attention`, or of a `functools.partial` of one.

    Raises:
        ValueError: if it is anything else, such as a lambda, or has options that are no plain values.
    """
    partial = factory if isinstance(factory, functools.partial) else functools.partial(factory)
    target = partial.func
    if not _is_ours(target):
        raise ValueError(
            f"{_called(target)} is no class of {PACKAGE}, so that it cannot be saved; give the name of a shipped "
            f"variant, or a functools.partial of a class in {PACKAGE}"
        )
    parameters = inspect.signature(target).parameters
    defaults = {name: p.default for name, p in parameters.items() if p.default is not inspect.Parameter.empty}
    given = inspect.signature(target).bind_partial(*partial.args, **partial.keywords).arguments
    options = {name: _plain(value, f"{target.__name__}.{name}") for name, value in (defaults | given).items()}
    if options.get("backend") in GPU_BACKENDS:
        options["backend"] = "auto"
    return {"_target_": _path(target), "_partial_": True, **options}


def describe_layers(factories: Sequence[Factory | None], earlier: AttentionSpec | None = None) -> dict[str, Any]:
    """The description of a whole model's attention, equal layers together: `{"0-5": {...}, "6": {...}}`.

    A factory that cannot be described leaves a text that says so: converting needs no description, saving does.

    Args:
        factories: one for each layer; None for a layer that is what it was.
        earlier: the description of the model as it was, where some layer is.
    """
    was = _by_layer(earlier or {}, len(factories))
    groups: list[tuple[Any, list[int]]] = []
    for layer, factory in enumerate(factories):
        try:
            node: Any = was[layer] if factory is None else describe(factory)
        except ValueError as error:
            node = str(error)
        for known, layers in groups:
            if known == node:
                layers.append(layer)
                break
        else:
            groups.append((node, [layer]))
    return {_ranges(layers): node for node, layers in groups}


def check_spec(spec: Any) -> None:
    """Refuses what `layer_factories` would not build, before anything is imported or instantiated.

    Raises:
        ValueError: if the spec is no mapping of layers to descriptions, a target lies outside of `mimicry.attention`
            or is no attention or feature map there, or an option is unknown or of the wrong type.
    """
    if not isinstance(spec, Mapping) or not spec:
        raise ValueError(f"attention must map layers to what they are, got {spec!r}")
    for layers, node in spec.items():
        if isinstance(node, str):
            raise ValueError(f"attention of layers {layers}: {node}")
        _check_node(node, f"attention of layers {layers}", Attention)


def layer_factories(spec: AttentionSpec, depth: int) -> list[Factory]:
    """The factory of each of a model's `depth` layers.

    Raises:
        ValueError: as `check_spec`, or if the spec is for a model of another depth.
    """
    check_spec(spec)
    found = _by_layer({layers: build(node) for layers, node in spec.items()}, depth)
    if len(found) < depth:
        raise ValueError(f"attention must be given for all {depth} layers of the model, got {', '.join(spec)}")
    return [found[layer] for layer in range(depth)]


def variant_names(spec: AttentionSpec) -> dict[str, str]:
    """What a person calls the attention of each group of layers: the shipped variant's name, or its classes."""
    shipped = {name: describe(load_variant(name)) for name in shipped_variants()}
    return {layers: _name(node, shipped) for layers, node in spec.items()}


def _by_layer(spec: Mapping[str, Any], depth: int) -> dict[int, Any]:
    return {layer: node for layers, node in spec.items() for layer in choose_layers(layers, depth)}


def _name(node: Any, shipped: Mapping[str, Any]) -> str:
    if isinstance(node, str):
        return "an attention of its own"
    known = next((name for name, described in shipped.items() if described == node), None)
    own = [str(node["_target_"]).rpartition(".")[2]]
    own += [_name(value, {}) for value in node.values() if isinstance(value, Mapping)]
    return known or " with ".join(own)


def _is_ours(target: Any) -> bool:
    return (
        inspect.isclass(target)
        and issubclass(target, Attention | FeatureMap)
        and target.__module__.startswith(f"{PACKAGE}.")
        and not inspect.isabstract(target)
    )


def _called(target: Any) -> str:
    name = getattr(target, "__qualname__", type(target).__qualname__)
    return f"{getattr(target, '__module__', type(target).__module__)}.{name}"


def _path(target: Any) -> str:
    public = getattr(mimicry.attention, target.__name__, None) is target
    return f"{PACKAGE}.{target.__name__}" if public else f"{target.__module__}.{target.__qualname__}"


def _plain(value: Any, where: str) -> Any:
    """A value as JSON holds it; factories in it described."""
    if value is None or isinstance(value, bool | int | float | str):
        return value
    if isinstance(value, list | tuple):
        return [_plain(item, where) for item in value]
    if callable(value):
        return describe(value)
    raise ValueError(f"{where} must be a plain value to be saved, got {type(value).__name__}")


def _check_node(node: Any, where: str, base: type) -> None:
    if not isinstance(node, Mapping) or not isinstance(node.get("_target_"), str):
        raise ValueError(f"{where} must have a _target_, got {node!r}")
    _check_target(str(node["_target_"]), where, base)
    for name, value in node.items():
        if isinstance(value, Mapping):
            _check_node(value, f"{where}.{name}", FeatureMap)
    check_options({**node, "_partial_": True}, where)


def _check_target(path: str, where: str, base: type) -> None:
    """Nothing outside of the package is even imported."""
    message = f"{where}._target_ must be a class derived from {base.__name__} in {PACKAGE}, got {path!r}"
    if not _PATH.fullmatch(path):
        raise ValueError(message)
    module, _, name = path.rpartition(".")
    try:
        target = getattr(importlib.import_module(module), name)
    except (ImportError, AttributeError) as error:
        raise ValueError(message) from error
    if not _is_ours(target) or not issubclass(target, base):
        raise ValueError(message)


def _ranges(layers: Sequence[int]) -> str:
    """Layers in order as a spec: `0-2,5`."""
    parts: list[list[int]] = []
    for layer in layers:
        if parts and parts[-1][-1] == layer - 1:
            parts[-1].append(layer)
        else:
            parts.append([layer])
    return ",".join(str(part[0]) if len(part) == 1 else f"{part[0]}-{part[-1]}" for part in parts)
