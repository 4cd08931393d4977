"""JSON data to frozen dataclasses and back, strictly: nothing missing, nothing unknown, every type as declared."""

import math
from dataclasses import MISSING, fields, is_dataclass
from types import NoneType, UnionType
from typing import Any, Literal, Union, get_args, get_origin, get_type_hints


def to_plain(value: Any) -> Any:
    """Return `value` as JSON data; a NaN or an infinity, which JSON cannot hold, becomes None.

    Raises:
        ValueError: for a value that is neither JSON data nor a dataclass of it.
    """
    if is_dataclass(value) and not isinstance(value, type):
        return {field.name: to_plain(getattr(value, field.name)) for field in fields(value)}
    if isinstance(value, dict):
        return {str(key): to_plain(entry) for key, entry in value.items()}
    if isinstance(value, list | tuple):
        return [to_plain(entry) for entry in value]
    if isinstance(value, float):
        # float() because numpy's scalars are floats of another type.
        return float(value) if math.isfinite(value) else None
    if value is None or isinstance(value, str | int):
        return value
    raise ValueError(f"value must be JSON data, got {value!r}")


def from_plain(declared: Any, value: Any, field: str) -> Any:
    """Return JSON data as the declared type.

    Args:
        declared: a frozen dataclass, str, int, float, bool, Any, Literal[...], X | None, dict[str, X] or tuple[X, ...].
        value: what json.loads returned.
        field: dotted name of the value, for the error.

    Raises:
        ValueError: one line naming the field, the rule and the received value.
    """
    if declared is Any:
        return value
    if is_dataclass(declared):
        return _dataclass_from_plain(declared, value, field)
    origin, arguments = get_origin(declared), get_args(declared)
    # Of a Literal and None Python makes the older kind of union.
    if origin in (UnionType, Union):
        inner = next(option for option in arguments if option is not NoneType)
        return None if value is None else from_plain(inner, value, field)
    if origin is Literal:
        return _require(value in arguments, value, field, f"be one of {', '.join(map(str, arguments))}")
    if origin is dict:
        _require(isinstance(value, dict), value, field, "be an object")
        return {key: from_plain(arguments[1], entry, f"{field}.{key}") for key, entry in value.items()}
    if origin is tuple:
        _require(isinstance(value, list), value, field, "be a list")
        return tuple(from_plain(arguments[0], entry, f"{field}[{index}]") for index, entry in enumerate(value))
    if declared is float and type(value) is int:
        return float(value)
    # type() and not isinstance(): True must not pass for the integer 1.
    return _require(type(value) is declared, value, field, f"be of type {declared.__name__}")


def _dataclass_from_plain(declared: Any, value: Any, field: str) -> Any:
    _require(isinstance(value, dict), value, field, "be an object")
    prefix = f"{field}." if field else ""
    types = get_type_hints(declared)
    for name in sorted(value.keys() - types.keys()):
        raise ValueError(f"field '{prefix}{name}' is unknown, expected only {', '.join(types)}")
    required = {entry.name for entry in fields(declared) if entry.default is MISSING}
    for name in sorted(required - value.keys()):
        raise ValueError(f"field '{prefix}{name}' is missing")
    return declared(**{name: from_plain(types[name], entry, prefix + name) for name, entry in value.items()})


def _require(holds: bool, value: Any, field: str, rule: str) -> Any:
    if not holds:
        raise ValueError(f"field '{field or 'record'}' must {rule}, got {value!r}")
    return value
