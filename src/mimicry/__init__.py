"""Turn softmax Transformers into linear-attention ones, and prove that it worked.

student = mimicry.convert(model, "hedgehog")
"""

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from mimicry.conversion import canonicalise as canonicalise
    from mimicry.conversion import convert as convert

__all__ = ["canonicalise", "convert"]


def __getattr__(name: str) -> Any:
    # Late, so that the command line answers before torch and transformers are imported.
    if name in __all__:
        return getattr(importlib.import_module("mimicry.conversion"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
