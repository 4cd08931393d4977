"""What distillation minimises: named terms and their weights."""

from dataclasses import dataclass, fields
from numbers import Real


@dataclass(frozen=True)
class DistillationObjectives:
    """Weights of the terms that are added up; the default is the paper's loss alone.

    `attention` and `output` are teacher-forced: each layer is fed the teacher's own projected states, so that no error
    of one layer reaches the next, and the student as a whole never runs. `hidden` and `logits` compare the two models
    as they run, each on its own states, which also trains a layer for what later layers make of its errors, and costs
    a forward and a backward pass of the student.

    Args:
        attention: soft cross-entropy of the student's attention weights under the teacher's, in nats, mean over
            layers, heads and queries. Source: Hedgehog, arXiv 2402.04347, Eq. 4.
        output: squared error of attention outputs, as a share of the variance of the teacher's (see
            `unexplained_variance`), mean over layers. Source: attention transfer of LoLCATs, arXiv 2410.10254.
        hidden: squared error of the hidden states that each layer of the model puts out, relative to the squared norm
            of the teacher's (see `relative_error`), mean over layers and tokens.
        logits: KL divergence of the student's predictions from the teacher's, in nats, mean over tokens.
            Source: arXiv 1503.02531, Sec. 2.
        temperature: divides both models' logits, > 0; the term is multiplied by its square, as the source advises.

    Raises:
        ValueError: if a weight is negative, all are 0, or the temperature is not positive.
    """

    attention: float = 1.0
    output: float = 0.0
    hidden: float = 0.0
    logits: float = 0.0
    temperature: float = 1.0

    def __post_init__(self) -> None:
        weights = {entry.name: getattr(self, entry.name) for entry in fields(self) if entry.name != "temperature"}
        for name, weight in weights.items():
            # Also refuses NaN.
            if not isinstance(weight, Real) or not 0 <= float(weight) < float("inf"):
                raise ValueError(f"objectives.{name} must be >= 0 and finite, got {weight!r}")
        if not any(weights.values()):
            raise ValueError(f"objectives must have at least one weight > 0 among {', '.join(weights)}, got none")
        if not isinstance(self.temperature, Real) or not 0 < self.temperature < float("inf"):
            raise ValueError(f"objectives.temperature must be > 0 and finite, got {self.temperature!r}")

    @property
    def forces_teacher(self) -> bool:
        """Whether layers are fed the teacher's states."""
        return self.attention > 0 or self.output > 0

    @property
    def runs_student(self) -> bool:
        """Whether the student runs as a whole."""
        return self.hidden > 0 or self.logits > 0
