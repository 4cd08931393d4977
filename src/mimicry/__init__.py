"""Turn softmax Transformers into linear-attention ones, and prove that it worked.

student = mimicry.convert(model, attn="hedgehog")
mimicry.distill(student, model, dataloader)
student.save_pretrained(folder)
student = mimicry.load(folder)
"""

import importlib
from typing import TYPE_CHECKING, Any

from mimicry.registration import register

if TYPE_CHECKING:
    from mimicry.conversion import canonicalise as canonicalise
    from mimicry.conversion import convert as convert
    from mimicry.conversion import load as load
    from mimicry.conversion import unshare as unshare
    from mimicry.objectives import DistillationObjectives as DistillationObjectives
    from mimicry.training.distill import DistillationResult as DistillationResult
    from mimicry.training.distill import distill as distill

# Every public name and the module it lives in.
_HOMES = {
    "DistillationObjectives": "mimicry.objectives",
    "DistillationResult": "mimicry.training.distill",
    "canonicalise": "mimicry.conversion",
    "convert": "mimicry.conversion",
    "distill": "mimicry.training.distill",
    "load": "mimicry.conversion",
    "unshare": "mimicry.conversion",
}
__all__ = [*_HOMES]

# Of the Auto classes of the host library, which find saved students from now on.
register()


def __getattr__(name: str) -> Any:
    # Late, so that the command line answers before torch and transformers are imported.
    if name in _HOMES:
        return getattr(importlib.import_module(_HOMES[name]), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted([*globals(), *_HOMES])
