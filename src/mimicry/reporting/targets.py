"""What the paper reports, as the experiment files state it: the numbers and orderings our runs are held against."""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import yaml

from mimicry.reporting.run_record import ModelState
from mimicry.reporting.schema import from_plain

Quantity = Literal["score", "percent_of_teacher", "kl", "entropy", "perplexity", "monotonicity"]
Confidence = Literal["high", "medium", "uncertain"]


@dataclass(frozen=True, kw_only=True)
class Target:
    """One claim of a source: a value with a tolerance, or an ordering of two attentions.

    Args:
        quantity: what is claimed; `score` is the task's primary metric.
        stage: state of the model it holds for.
        attn: row of our table it speaks of: an attention, with its options where the table names them.
        source: where it stands, such as `Table 8`.
        value: in the units of tables: percent, nats, perplexity; monotonicity in [-1, 1].
        tolerance: how far ours may be off, in the same units, >= 0; comes with `value`.
        above: the attention, or row, whose quantity is smaller on the same tasks; instead of `value`.
        maps_from: corpus on which the maps were distilled, `the task` for its own rows; None where all share one.
        model: of the claim; None for whatever model the experiment runs. Likewise `task` and `regime`.
        confidence: of the published number; None where nothing is said.

    Raises:
        ValueError: for fields that do not fit together.
    """

    quantity: Quantity
    stage: ModelState
    attn: str
    source: str
    value: float | None = None
    tolerance: float | None = None
    above: str | None = None
    maps_from: str | None = None
    model: str | None = None
    task: str | None = None
    regime: str | None = None
    confidence: Confidence | None = None

    def __post_init__(self) -> None:
        if (self.value is None) == (self.above is None):
            raise ValueError(f"value or above must be given, and not both, got {self.value!r} and {self.above!r}")
        if (self.value is None) != (self.tolerance is None):
            raise ValueError(f"tolerance must come with value, got {self.tolerance!r} and {self.value!r}")
        if self.value is not None and not math.isfinite(self.value):
            raise ValueError(f"value must be finite, got {self.value}")
        if self.tolerance is not None and not self.tolerance >= 0:
            raise ValueError(f"tolerance must be >= 0, got {self.tolerance}")
        if self.above == self.attn:
            raise ValueError(f"above must name another attention than attn, got {self.above!r}")


def read_targets(path: Path) -> tuple[Target, ...]:
    """The targets of an experiment file, in its order; none when it states none or is not there.

    Raises:
        ValueError: one line naming the file, the entry and the rule.
    """
    if not path.is_file():
        return ()
    try:
        plain = yaml.safe_load(path.read_text(encoding="utf-8"))
    except yaml.YAMLError as error:
        raise ValueError(f"{path}: not YAML: {' '.join(str(error).split())}") from error
    entries = plain.get("targets", []) if isinstance(plain, Mapping) else []
    try:
        if not isinstance(entries, list):
            raise ValueError(f"field 'targets' must be a list, got {entries!r}")
        return tuple(_parsed(entry, f"targets[{index}]") for index, entry in enumerate(entries))
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from error


def _parsed(entry: object, field: str) -> Target:
    try:
        return from_plain(Target, entry, field)
    except ValueError as error:
        # What does not fit together is said by the target itself, which does not know where it stands.
        raise error if field in str(error) else ValueError(f"{field}: {error}") from error
