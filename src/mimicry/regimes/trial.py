"""What a training under one setting was, and what came of it."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Trial:
    """One candidate of a stage: its settings, what it cost and how it did on the held-out rows.

    `held_out` is None where there was no other candidate, and where this one diverged or its score has no value; of a
    loss it is the negative, so that higher is always better. `mfu` is the share of the device's `peak_flops_per_s`,
    those of a large matrix product; both are None where the model does not count its operations. `best_epoch` is the
    one whose weights were kept, counted from 1; None where those of the last step were. `loss` is its
    course over batches, and `held_out_scores` that of each score where every epoch was scored on the held-out rows.
    """

    epochs: int
    learning_rate: float
    steps: int
    wall_s: float
    tokens_per_s: float | None
    held_out: float | None
    chosen: bool
    trained_parameters: int | None = None
    mfu: float | None = None
    peak_flops_per_s: float | None = None
    best_epoch: int | None = None
    loss: tuple[tuple[int, float], ...] = ()
    held_out_scores: tuple[tuple[str, tuple[tuple[int, float], ...]], ...] = ()


def describe(trial: Trial) -> str:
    """One line for the log."""
    rate = "" if trial.tokens_per_s is None else f", {trial.tokens_per_s:,.0f} tokens/s"
    rate += "" if trial.mfu is None else f", {trial.mfu:.0%} of the machine's matrix products"
    held_out = "" if trial.held_out is None else f", {trial.held_out:.4f} on held-out rows"
    cost = f"{trial.steps} steps in {trial.wall_s:.0f} s{rate}"
    epochs = f"{trial.epochs} epoch{'s' * (trial.epochs > 1)}"
    return f"{epochs} at learning rate {trial.learning_rate:g}: {cost}{held_out}"
