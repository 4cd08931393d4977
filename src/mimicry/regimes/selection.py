"""Choosing a stage's settings on held-out training rows."""

import copy
import logging
import math
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

from mimicry.ranks import agreed
from mimicry.regimes.progress import is_kept, keep, take
from mimicry.regimes.stage import Stage
from mimicry.regimes.trial import Trial, describe
from mimicry.training.budget import Budget

log = logging.getLogger(__name__)


def train_best(
    stage: Stage, fit: Callable[[Stage, Budget], Trial], judge: Callable[[Stage], float], folder: Path
) -> tuple[Trial, ...]:
    """Trains every candidate from the same weights, and leaves the weights of the best in `stage.model`.

    Args:
        stage: with at least one candidate.
        fit: trains `stage.model` in place with one budget.
        judge: of the trained model on the held-out rows; higher is better.
        folder: keeps the best candidate so far, and all that were judged, for an interrupted choice to go on from.

    Returns:
        All trials, in order of the candidates; one of them is chosen. A single candidate is not judged.

    Raises:
        FloatingPointError: if no candidate got a score.
    """
    if len(stage.candidates) == 1:
        return (replace(fit(stage, stage.candidates[0]), chosen=True),)
    start = copy.deepcopy(stage.model.state_dict())
    trials: tuple[Trial, ...] = ()
    if agreed(is_kept(folder)):
        trials = take(folder, stage.model)
        log.info("%s: %d of %d candidates were judged before", stage.name, len(trials), len(stage.candidates))
    # Of the best so far; those of the start until there is one.
    weights = copy.deepcopy(stage.model.state_dict())
    for budget in stage.candidates[len(trials) :]:
        stage.model.load_state_dict(start)
        trial = _try(stage, budget, fit, judge)
        best = next((earlier.held_out for earlier in trials if earlier.chosen), None)
        if trial.held_out is not None and (best is None or trial.held_out > best):
            trials = (*(replace(earlier, chosen=False) for earlier in trials), replace(trial, chosen=True))
            weights = copy.deepcopy(stage.model.state_dict())
        else:
            trials = (*trials, trial)
            stage.model.load_state_dict(weights)
        keep(folder, stage.model, trials)
    if not any(trial.chosen for trial in trials):
        raise FloatingPointError(
            f"{stage.name}: none of {len(trials)} candidates got a score; lower regime.{stage.name}.learning_rate"
        )
    stage.model.load_state_dict(weights)
    return trials


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
