"""What a sweeper such as Optuna gets of a run."""

from collections.abc import Callable

import pytest

from mimicry.app import objective
from mimicry.reporting.run_record import Measurement, RunRecord


def test_a_stage_that_chose_on_held_out_rows_is_judged_on_them(make_record: Callable[..., RunRecord]) -> None:
    assert objective(make_record()) == 0.8


def test_without_such_a_choice_the_reported_score_counts_and_a_loss_counts_negative(
    make_record: Callable[..., RunRecord],
) -> None:
    assert objective(make_record(trials=())) == 0.76
    loss = Measurement("val/nll_token", 2.5, "nats/token", "recovered", "validation")
    assert objective(make_record(trials=(), metrics=(loss,))) == -2.5


def test_a_score_without_a_value_is_none(make_record: Callable[..., RunRecord]) -> None:
    lost = Measurement("val/matthews", None, "correlation", "recovered", "validation")
    assert objective(make_record(trials=(), metrics=(lost,))) is None


@pytest.mark.parametrize("chosen", [True, False])
def test_only_the_chosen_candidate_counts(chosen: bool, make_record: Callable[..., RunRecord]) -> None:
    trials = tuple(trial for trial in make_record().trials if trial.chosen == chosen)
    assert objective(make_record(trials=trials)) == (0.8 if chosen else 0.76)
