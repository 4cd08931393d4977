"""Numbers of a run that are more than one: a value per layer and head, and curves with their spread."""

from dataclasses import dataclass


@dataclass(frozen=True)
class HeadGrid:
    """A mean per layer and head: `values[layer][head]`, None where there was nothing to average.

    `name` is the measured quantity without its place, such as `analysis/kl`; `stage` the state of the model it was
    measured on, `unit` its unit ("nats", "fraction", "correlation").
    """

    name: str
    stage: str
    unit: str
    values: tuple[tuple[float | None, ...], ...]


@dataclass(frozen=True)
class Curve:
    """y over x, of at most a few hundred points, None where there is no value.

    `name` is what y is, such as `train/loss` or `analysis/monotonicity`; `x_name` what x is, such as `step` or `q.k`.
    `low` and `high` are a spread around y, with as many points, or empty.
    """

    name: str
    stage: str
    x_name: str
    x: tuple[float | None, ...]
    y: tuple[float | None, ...]
    low: tuple[float | None, ...] = ()
    high: tuple[float | None, ...] = ()

    def __post_init__(self) -> None:
        lengths = {len(self.x), len(self.y)} | {len(spread) for spread in (self.low, self.high) if spread}
        if len(lengths) != 1:
            raise ValueError(f"x, y, low and high must have as many points, or no spread at all, got {self.name}")
