"""Checks options against the signature of what they configure: the constructor of a target is its schema."""

import importlib
import inspect
from collections.abc import Callable, Mapping, Sequence
from types import UnionType
from typing import Any, Literal, Union, get_args, get_origin, get_type_hints

from beartype import BeartypeConf
from beartype.door import is_bearable

# An int is a valid float, as everywhere in Python's typing.
CONF = BeartypeConf(is_pep484_tower=True)
DIRECTIVES = ("_target_", "_partial_", "_args_", "_convert_", "_recursive_")


def check_options(node: Any, where: str) -> None:
    """Checks every `_target_` below `node`.

    Args:
        node: a plain config: dicts, lists and values.
        where: dotted path of `node`, for messages.

    Raises:
        ValueError: one line naming the option, the rule and the value: a target that does not import, an option that
            its signature does not have, a missing one, or a value of the wrong type.
    """
    if isinstance(node, list):
        for index, child in enumerate(node):
            check_options(child, f"{where}[{index}]")
    if not isinstance(node, Mapping):
        return
    for name, child in node.items():
        check_options(child, f"{where}.{name}" if where else str(name))
    if "_target_" in node:
        target = import_target(str(node["_target_"]), where)
        options = {name: value for name, value in node.items() if name not in DIRECTIVES}
        check_signature(target, options, where, complete=not node.get("_partial_", False))


def import_target(path: str, where: str) -> Callable[..., Any]:
    """The object a dotted path names; ValueError if there is none."""
    module, _, attribute = path.rpartition(".")
    try:
        target: Callable[..., Any] = getattr(importlib.import_module(module), attribute)
    except (ImportError, AttributeError, TypeError, ValueError) as error:
        raise ValueError(f"{where}._target_: cannot import {path!r} ({error})") from error
    return target


def check_signature(target: Callable[..., Any], options: Mapping[str, Any], where: str, complete: bool) -> None:
    """Checks names, and types of plain values, against `target`; with `complete` also that nothing is missing."""
    parameters = {name: p for name, p in inspect.signature(target).parameters.items() if name != "self"}
    known = [name for name, p in parameters.items() if p.kind in (p.POSITIONAL_OR_KEYWORD, p.KEYWORD_ONLY)]
    anything = any(p.kind is p.VAR_KEYWORD for p in parameters.values())
    hints = get_type_hints(target.__init__ if inspect.isclass(target) else target)
    label = getattr(target, "__name__", str(target))
    for name, value in options.items():
        if name not in known and not anything:
            raise ValueError(f"{where}.{name}: {label} has no such option; it has {', '.join(known) or 'none'}")
        configured = isinstance(value, Mapping) and "_target_" in value
        if name in hints and not configured and not fits(value, hints[name]):
            raise ValueError(f"{where}.{name} must be {describe(hints[name])}, got {value!r}")
    missing = [name for name in known if name not in options and parameters[name].default is inspect.Parameter.empty]
    if complete and missing:
        raise ValueError(f"{where}.{missing[0]}: {label} needs this option")


def fits(value: Any, hint: Any) -> bool:
    """Whether a plain value is of the hinted type; booleans do not pass for numbers."""
    origin, args = get_origin(hint), get_args(hint)
    if origin in (Union, UnionType):
        return any(fits(value, part) for part in args)
    if origin is Literal:
        return any(type(value) is type(choice) and value == choice for choice in args)
    if isinstance(value, bool):
        return hint in (Any, bool, object)
    if isinstance(value, list) and origin in (list, Sequence):
        return all(fits(item, args[0]) for item in value)
    # YAML has no tuples: a list may stand for one.
    if isinstance(value, list) and origin is tuple:
        parts = [args[0]] * len(value) if args[-1] is Ellipsis else args
        return len(parts) == len(value) and all(map(fits, value, parts))
    return is_bearable(value, hint, conf=CONF)


def describe(hint: Any) -> str:
    """A type hint in words a user of the command line knows."""
    return getattr(hint, "__name__", None) if isinstance(hint, type) else str(hint).replace("typing.", "")
