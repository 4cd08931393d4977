"""Verdicts on made records and on those in results/."""

import statistics
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import scipy.stats

from mimicry.reporting.comparison import read_records
from mimicry.reporting.intervals import interval
from mimicry.reporting.run_record import Measurement, ModelState, RunRecord
from mimicry.reporting.series import HeadGrid
from mimicry.reporting.targets import Target
from mimicry.reporting.verdicts import Verdict, judge

MakeRecord = Callable[..., RunRecord]
RESULTS = Path(__file__).parents[3] / "results"


def target(**changes: object) -> Target:
    options = {"quantity": "score", "stage": "recovered", "attn": "hedgehog", "source": "Table 8", **changes}
    return Target(**options)  # type: ignore[arg-type]


def valued(value: float, tolerance: float, **changes: object) -> Target:
    return target(value=value, tolerance=tolerance, **changes)


def only(verdicts: tuple[Verdict, ...]) -> Verdict:
    (verdict,) = verdicts
    return verdict


@pytest.fixture
def runs(make_record: MakeRecord) -> Callable[..., list[RunRecord]]:
    def make(recovered: list[float], teacher: float = 0.8, **changes: object) -> list[RunRecord]:
        scores: list[dict[ModelState, float]] = [{"teacher": teacher, "recovered": value} for value in recovered]
        return [make_record(scores=score, seed=seed, **changes) for seed, score in enumerate(scores)]

    return make


def test_a_claim_on_the_corpus_of_the_maps_looks_at_no_other(runs: Callable[..., list[RunRecord]]) -> None:
    data = {"maps_corpus": {"name": "topics"}}
    configs = {"config": {"maps_corpus": "topics"}}
    records = [*runs([0.5]), *[replace(record, data=record.data | data) for record in runs([0.7], **configs)]]
    for corpus, value in {"the task": 50.0, "topics": 70.0}.items():
        assert only(judge(valued(value, 0.1, maps_from=corpus), records)).status == "reproduced"
    unknown = only(judge(valued(1.0, 0.1, maps_from="cola"), records))
    assert (unknown.status, unknown.about) == ("not run at this scale", "no finished run of cola")


def test_an_interval_is_scipys() -> None:
    values = [83.0, 84.5, 81.25, 83.5]
    found = interval(values)
    low, high = scipy.stats.t.interval(0.95, 3, loc=found.mean, scale=scipy.stats.sem(values))
    assert found.mean == pytest.approx(statistics.fmean(values))
    assert (found.mean - found.half, found.mean + found.half) == pytest.approx((low, high))
    assert interval([5.0]).half is None
    with pytest.raises(ValueError, match="values must be finite numbers, at least one"):
        interval([])


def test_a_value_within_the_tolerance_is_reproduced_and_one_beyond_differs_by_so_much(
    runs: Callable[..., list[RunRecord]],
) -> None:
    records = runs([0.58, 0.60])
    near = only(judge(valued(59.5, 0.5), records))
    assert (near.status, near.ours.mean, near.tasks, near.model) == ("reproduced", 59.0, ("movie_reviews",), "minilm")
    far = only(judge(valued(62.0, 1.0), records))
    assert (far.status, far.difference.mean, far.about) == ("differs", pytest.approx(-3.0), "2 seeds")
    assert "single seed" in only(judge(valued(62.0, 1.0), records[:1])).about


def test_a_model_task_or_attention_that_did_not_run_is_said_so(runs: Callable[..., list[RunRecord]]) -> None:
    records = runs([0.58])
    for change in ({"model": "bert_base"}, {"task": "cola"}, {"regime": "scratch"}, {"attn": "taylor"}):
        verdict = only(judge(valued(59.2, 1.0, **change), records))
        assert verdict.status == "not run at this scale"
        assert next(iter(change.values())) in verdict.about
    unmeasured = only(judge(valued(59.2, 1.0, stage="distilled"), records))
    assert unmeasured.about == "score was not measured for hedgehog, distilled"


def test_a_failed_run_is_no_result(runs: Callable[..., list[RunRecord]]) -> None:
    failed = runs([0.58], status="failed", reason="ValueError: no")
    assert only(judge(valued(58.0, 1.0), failed)).status == "not run at this scale"


def test_a_model_may_be_named_as_it_was_chosen(runs: Callable[..., list[RunRecord]]) -> None:
    donors = [
        *runs([0.58], task="cola", model="bert-base-uncased-cola", choices={"model": "bert_base_donor"}),
        *runs([0.62], task="rte", model="bert-base-uncased-rte", choices={"model": "bert_base_donor"}),
    ]
    verdict = only(judge(valued(60.0, 0.1, model="bert_base_donor"), donors))
    assert (verdict.status, verdict.tasks) == ("reproduced", ("cola", "rte"))


def test_over_tasks_the_share_is_of_the_means_and_only_of_complete_seeds(
    runs: Callable[..., list[RunRecord]],
) -> None:
    records = [*runs([0.8, 0.6], teacher=0.8, task="a"), *runs([0.2], teacher=0.4, task="b")]
    verdict = only(judge(valued(83.33, 0.01, quantity="percent_of_teacher"), records))
    # (0.8 + 0.2) / (0.8 + 0.4), not the mean of 100 and 50 percent; seed 1 lacks a task.
    assert (verdict.status, verdict.ours.n) == ("reproduced", 1)


def test_an_ordering_needs_a_difference_beyond_its_interval(runs: Callable[..., list[RunRecord]]) -> None:
    records = [*runs([0.80, 0.82, 0.81]), *runs([0.70, 0.71, 0.72], attn="elu")]
    claim = target(above="elu")
    clear = only(judge(claim, records))
    assert (clear.status, clear.other.mean) == ("reproduced", pytest.approx(71.0))
    # Seed by seed: 10, 11 and 9 points.
    assert clear.difference.mean == pytest.approx(10.0)
    assert clear.difference.half == pytest.approx(interval([10.0, 11.0, 9.0]).half)
    assert only(judge(target(attn="elu", above="hedgehog"), records)).status == "differs"
    noisy = [*runs([0.80, 0.70, 0.75]), *runs([0.72, 0.74, 0.73], attn="elu")]
    assert only(judge(claim, noisy)).status == "undecided"


def test_an_ordering_on_a_single_seed_is_decided_and_says_so(runs: Callable[..., list[RunRecord]]) -> None:
    verdict = only(judge(target(above="elu"), [*runs([0.8]), *runs([0.7], attn="elu")]))
    assert (verdict.status, verdict.about) == ("reproduced", "a single seed: no interval")


def test_a_row_with_options_is_named_as_in_the_table(runs: Callable[..., list[RunRecord]]) -> None:
    records = [
        *runs([0.80, 0.80], config={"tie_maps": False}),
        *runs([0.60], config={"tie_maps": True}),
    ]
    assert only(judge(valued(80.0, 0.1), records)).status == "reproduced"
    tied = only(judge(valued(60.0, 0.1, attn="hedgehog (tie_maps=True)"), records))
    assert tied.status == "reproduced"
    unclear = only(judge(valued(80.0, 0.1), records[1:]))
    assert (unclear.status, unclear.about) == ("not run at this scale", "runs of hedgehog differ in more than the seed")


def test_nats_and_perplexities_and_values_per_head_are_judged_in_their_units(make_record: MakeRecord) -> None:
    record = make_record(
        metrics=(
            Measurement("val/nll_token", 3.0, "nats/token", "recovered", "validation"),
            Measurement("analysis/kl", 0.2, "nats", "recovered", "validation"),
            Measurement("analysis/entropy", 2.0, "nats", "recovered", "validation"),
        ),
        heads=(HeadGrid("analysis/monotonicity", "recovered", "correlation", ((0.9, None), (0.7, 0.8))),),
    )
    for quantity, value in (("perplexity", 20.0855), ("kl", 0.2), ("entropy", 2.0), ("monotonicity", 0.8)):
        assert only(judge(valued(value, 1e-3, quantity=quantity), [record])).status == "reproduced"
    assert only(judge(valued(20.0, 1.0), [record])).status == "not run at this scale"


def test_the_committed_records_give_verdicts() -> None:
    records = read_records(RESULTS / "minilm_glue")
    kept = only(judge(valued(99.3, 1.0, quantity="percent_of_teacher"), records))
    assert (kept.status, kept.ours.n, kept.tasks) == ("reproduced", 3, ("sst2",))
    spread = only(judge(target(quantity="percent_of_teacher", above="elu"), records))
    assert (spread.status, spread.ours.n) == ("reproduced", 3)
    assert only(judge(valued(59.2, 1.0, model="bert_base", task="cola"), records)).status == "not run at this scale"
