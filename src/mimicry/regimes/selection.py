"""Choosing a stage's settings on held-out training rows."""

import copy
import logging
import math
from collections.abc import Callable
from dataclasses import dataclass, replace

from mimicry.regimes.stage import Stage
from mimicry.training.budget import Budget

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Trial:
    """One candidate of a stage: its settings, what it cost and how it did on the held-out rows.

    `held_out` is None where there was no other candidate, and where this one diverged or its score has no value; of a
    loss it is the negative, so that higher is always better. `mfu` is the share of the device's `peak_flops_per_s`,
    those of a large matrix product; both are None where the model does not count its operations. `best_epoch` is the
    one whose weights were kept, counted from 1; None where those of the last step were. `curve` holds batches and
    losses.
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
    curve: tuple[tuple[int, float], ...] = ()


def train_best(
    stage: Stage, fit: Callable[[Stage, Budget], Trial], judge: Callable[[Stage], float]
) -> tuple[Trial, ...]:
    """Trains every candidate from the same weights, and leaves the weights of the best in `stage.model`.

    Args:
        stage: with at least one candidate.
        fit: trains `stage.model` in place with one budget.
        judge: of the trained model on the held-out rows; higher is better.

    Returns:
        All trials, in order of the candidates; one of them is chosen. A single candidate is not judged.

    Raises:
        FloatingPointError: if no candidate got a score.
    """
    if len(stage.candidates) == 1:
        return (replace(fit(stage, stage.candidates[0]), chosen=True),)
    start = copy.deepcopy(stage.model.state_dict())
    trials: list[Trial] = []
    best, best_score, best_weights = None, -math.inf, start
    for index, budget in enumerate(stage.candidates):
        stage.model.load_state_dict(start)
        trial = _try(stage, budget, fit, judge)
        trials.append(trial)
        if trial.held_out is not None and trial.held_out > best_score:
            best, best_score, best_weights = index, trial.held_out, copy.deepcopy(stage.model.state_dict())
    if best is None:
        raise FloatingPointError(
            f"{stage.name}: none of {len(trials)} candidates got a score; lower regime.{stage.name}.learning_rate"
        )
    stage.model.load_state_dict(best_weights)
    return tuple(replace(trial, chosen=index == best) for index, trial in enumerate(trials))


def _try(stage: Stage, budget: Budget, fit: Callable[[Stage, Budget], Trial], judge: Callable[[Stage], float]) -> Trial:
    """One candidate, judged; without a score where it diverged, or where its predictions have none."""
    try:
        trial = fit(stage, budget)
    except FloatingPointError as error:
        log.warning("%s: a candidate is out: %s", stage.name, error)
        return Trial(budget.epochs, budget.learning_rate, 0, 0.0, None, None, chosen=False)
    score = judge(stage)
    # A correlation has no value where all predictions are equal.
    trial = replace(trial, held_out=score if math.isfinite(score) else None)
    log.info("%s: %s", stage.name, describe(trial))
    return trial


def describe(trial: Trial) -> str:
    """One line for the log."""
    rate = "" if trial.tokens_per_s is None else f", {trial.tokens_per_s:,.0f} tokens/s"
    rate += "" if trial.mfu is None else f", {trial.mfu:.0%} of the machine's matrix products"
    held_out = "" if trial.held_out is None else f", {trial.held_out:.4f} on held-out rows"
    cost = f"{trial.steps} steps in {trial.wall_s:.0f} s{rate}"
    epochs = f"{trial.epochs} epoch{'s' * (trial.epochs > 1)}"
    return f"{epochs} at learning rate {trial.learning_rate:g}: {cost}{held_out}"
