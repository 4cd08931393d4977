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

    `held_out` is None where nothing was measured: there was no other candidate, or this one diverged.
    """

    epochs: int
    learning_rate: float
    steps: int
    wall_s: float
    tokens_per_s: float | None
    held_out: float | None
    chosen: bool


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
        FloatingPointError: if every candidate diverged.
    """
    if len(stage.candidates) == 1:
        return (replace(fit(stage, stage.candidates[0]), chosen=True),)
    start, best, best_weights = copy.deepcopy(stage.model.state_dict()), -math.inf, None
    trials: list[Trial] = []
    for budget in stage.candidates:
        stage.model.load_state_dict(start)
        try:
            trial = fit(stage, budget)
        except FloatingPointError as error:
            log.warning("%s: a candidate is out: %s", stage.name, error)
            trials.append(Trial(budget.epochs, budget.learning_rate, 0, 0.0, None, None, chosen=False))
            last_error = error
            continue
        trial = replace(trial, held_out=judge(stage))
        log.info("%s: %s", stage.name, describe(trial))
        trials.append(trial)
        assert trial.held_out is not None
        if trial.held_out > best:
            best, best_weights = trial.held_out, copy.deepcopy(stage.model.state_dict())
    if best_weights is None:
        raise last_error
    stage.model.load_state_dict(best_weights)
    chosen = next(index for index, trial in enumerate(trials) if trial.held_out == best)
    return tuple(replace(trial, chosen=index == chosen) for index, trial in enumerate(trials))


def describe(trial: Trial) -> str:
    """One line for the log."""
    rate = "" if trial.tokens_per_s is None else f", {trial.tokens_per_s:,.0f} tokens/s"
    held_out = "" if trial.held_out is None else f", {trial.held_out:.4f} on held-out rows"
    cost = f"{trial.steps} steps in {trial.wall_s:.0f} s{rate}"
    epochs = f"{trial.epochs} epoch{'s' * (trial.epochs > 1)}"
    return f"{epochs} at learning rate {trial.learning_rate:g}: {cost}{held_out}"
