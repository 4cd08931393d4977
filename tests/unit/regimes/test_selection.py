import math
from pathlib import Path

import pytest
import torch
from torch import nn

from mimicry.regimes.selection import train_best
from mimicry.regimes.stage import Stage
from mimicry.regimes.trial import Trial
from mimicry.training.budget import Budget, BudgetGrid

MODEL_START = 1.0


def stage(*rates: float) -> Stage:
    model = nn.Linear(1, 1, bias=False)
    nn.init.constant_(model.weight, MODEL_START)
    grid = BudgetGrid(epochs=1, learning_rate=list(rates), batch_size=1)
    return Stage("recover", "", "recovered", model, nn.Identity, grid.candidates)


def fit(stage: Stage, budget: Budget) -> Trial:
    """Adds the learning rate to the weight; 100 diverges."""
    if budget.learning_rate == 100:
        raise FloatingPointError("loss is nan")
    with torch.no_grad():
        stage.model.weight += budget.learning_rate
    return Trial(1, budget.learning_rate, 1, 0.1, None, None, chosen=False)


def weight(stage: Stage) -> float:
    return stage.model.weight.item()


def test_every_candidate_starts_from_the_same_weights_and_the_best_ones_stay(tmp_path: Path) -> None:
    built = stage(4.0, 2.0, 3.0)
    trials = train_best(built, fit, lambda trained: -abs(weight(trained) - 3.0), tmp_path)
    assert [trial.chosen for trial in trials] == [False, True, False]
    assert [trial.held_out for trial in trials] == [-2.0, 0.0, -1.0]
    assert weight(built) == 3.0


def test_a_candidate_without_a_score_is_out(tmp_path: Path) -> None:
    built = stage(1.0, 2.0)
    trials = train_best(built, fit, lambda trained: math.nan if weight(trained) == 2.0 else -5.0, tmp_path)
    assert [(trial.held_out, trial.chosen) for trial in trials] == [(None, False), (-5.0, True)]


@pytest.mark.parametrize("rates", [(100.0, 1.0), (1.0, 2.0)])
def test_without_any_score_the_stage_fails_in_one_line(rates: tuple[float, ...], tmp_path: Path) -> None:
    message = r"^recover: none of 2 candidates got a score; lower regime.recover.learning_rate$"
    with pytest.raises(FloatingPointError, match=message):
        train_best(stage(*rates), fit, lambda trained: math.nan, tmp_path)


@pytest.mark.parametrize("last", [1, 2, 3])
def test_an_interrupted_choice_goes_on_with_the_candidate_after_the_last_that_was_judged(
    last: int, tmp_path: Path
) -> None:
    rates, fitted = (100.0, 4.0, 2.0, 3.0), []

    def counted(stage: Stage, budget: Budget) -> Trial:
        if len(fitted) == last:
            raise KeyboardInterrupt
        fitted.append(budget.learning_rate)
        return fit(stage, budget)

    def judge(trained: Stage) -> float:
        return -abs(weight(trained) - 3.0)

    with pytest.raises(KeyboardInterrupt):
        train_best(stage(*rates), counted, judge, tmp_path)
    before, last = list(fitted), 9
    built = stage(*rates)
    trials = train_best(built, counted, judge, tmp_path)
    assert fitted == list(rates)
    assert len(before) < len(fitted)
    assert [(trial.held_out, trial.chosen) for trial in trials] == [
        (None, False),
        (-2.0, False),
        (0.0, True),
        (-1.0, False),
    ]
    assert weight(built) == 3.0
