"""The shipped attention variants: one YAML each, the same files that `conf/attn` shows to Hydra.

They live inside the package so that an installed wheel converts models by variant name, without `conf/` or Hydra.
"""

import functools
import importlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import yaml

from mimicry.attention.base import Attention

FOLDER = Path(__file__).parent / "variants"


def shipped_variants() -> list[str]:
    """Names accepted by `load_variant`, sorted."""
    return sorted(path.stem for path in FOLDER.glob("*.yaml"))


def load_variant(name: str) -> Callable[..., Attention]:
    """The factory of a shipped variant: call it once per layer with `dims=AttentionDims(...)`.

    Raises:
        ValueError: if no such variant ships.
    """
    if name not in shipped_variants():
        raise ValueError(f"attn must be one of {', '.join(shipped_variants())}; got {name!r}")
    factory: Callable[..., Attention] = build(yaml.safe_load((FOLDER / f"{name}.yaml").read_text(encoding="utf-8")))
    return factory


def build(node: Any) -> Any:
    """The subset of Hydra's instantiate that variants use: `_target_` with `_partial_: true`, nested."""
    if not isinstance(node, dict) or "_target_" not in node:
        return node
    options = {key: build(value) for key, value in node.items() if not key.startswith("_")}
    module, _, attribute = node["_target_"].rpartition(".")
    return functools.partial(getattr(importlib.import_module(module), attribute), **options)
