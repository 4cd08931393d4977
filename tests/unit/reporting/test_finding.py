"""Whether quality follows spiky and monotone attention, from records with known answers."""

from collections.abc import Callable
from pathlib import Path

import matplotlib.image
import numpy as np
import pytest
import scipy.stats

from mimicry.reporting.comparison import save_collection
from mimicry.reporting.finding import Correlation, correlations, finding_markdown, main, points_of
from mimicry.reporting.finding_figure import finding_figure
from mimicry.reporting.run_record import Measurement, ModelState, RunRecord
from mimicry.reporting.series import HeadGrid

# Accuracy after conversion, entropy, and a mean rank correlation of two layers of two heads.
CONVERTED = {
    "softmax": (0.80, 1.0, 1.0),
    "hedgehog": (0.79, 1.3, 0.95),
    "taylor": (0.78, 1.9, 0.97),
    "exp_t2": (0.60, 1.1, 0.50),
    "elu": (0.65, 2.8, 0.60),
    "relu": (0.50, 2.0, 0.40),
}
# From scratch the spiky map that is not monotone does as well as any.
FROM_SCRATCH = {
    "softmax": (1.0, 0.5, 1.0),
    "hedgehog": (0.99, 0.6, 0.9),
    "exp_t2": (0.98, 0.65, 0.3),
    "taylor": (0.97, 0.7, 0.8),
    "relu": (0.4, 1.5, 0.7),
    "elu": (0.2, 2.0, 0.6),
}


@pytest.fixture
def records(make_record: Callable[..., RunRecord]) -> list[RunRecord]:
    def record(regime: str, attn: str, numbers: tuple[float, float, float], seed: int) -> RunRecord:
        score, entropy, monotone = numbers
        state: ModelState = "trained" if regime == "scratch" else "recovered"
        metrics = [
            Measurement("val/accuracy", score + 0.001 * seed, "fraction", state, "validation"),
            Measurement("analysis/entropy", entropy, "nats", state, "validation"),
        ]
        if regime != "scratch":
            metrics.append(Measurement("val/accuracy", 0.8, "fraction", "teacher", "validation"))
            metrics.append(Measurement("analysis/entropy", 1.0, "nats", "teacher", "validation"))
            metrics.append(Measurement("analysis/kl", 1 - monotone, "nats", state, "validation"))
        heads = HeadGrid("analysis/monotonicity", state, "correlation", ((monotone, None), (monotone, monotone)))
        config = {"attn": {"name": attn}}
        changes = {"attn": attn, "seed": seed, "config": config, "metrics": tuple(metrics), "heads": (heads,)}
        return make_record(regime=regime, **changes)

    return [
        record(regime, attn, numbers, seed)
        for regime, table in (("finetuned", CONVERTED), ("scratch", FROM_SCRATCH))
        for attn, numbers in table.items()
        for seed in (0, 1)
    ]


def test_points_are_means_over_seeds_with_gaps_from_softmax(records: list[RunRecord]) -> None:
    points = {(point.regime, point.label): point for point in points_of(records)}
    assert len(points) == 12
    hedgehog = points["finetuned", "hedgehog"]
    assert hedgehog.seeds == 2
    assert hedgehog.quality == pytest.approx(100 * 0.7905 / 0.8)
    assert hedgehog.causes == pytest.approx({"entropy gap": 0.3, "monotonicity": 0.95, "KL": 0.05})
    elu = points["scratch", "elu"]
    assert elu.quality == pytest.approx(20.05)
    assert elu.causes["entropy gap"] == pytest.approx(1.5)
    assert elu.causes["KL"] is None


def test_conversions_can_be_judged_before_they_recover(make_record: Callable[..., RunRecord]) -> None:
    def record(attn: str, **scores: float) -> RunRecord:
        metrics = [
            Measurement("val/accuracy", value, "fraction", state, "validation") for state, value in scores.items()
        ]
        metrics += [Measurement("analysis/kl", value, "nats", state, "validation") for state, value in scores.items()]
        return make_record(attn=attn, metrics=tuple(metrics))

    records = [
        record("hedgehog", teacher=0.8, no_train=0.4, distilled=0.72, recovered=0.8),
        record("elu", teacher=0.8, no_train=0.4, recovered=0.8),
    ]
    late, early = ({point.label: point for point in points_of(records, before)} for before in (False, True))
    assert {point.quality for point in late.values()} == {100.0}
    assert early["hedgehog"].quality == pytest.approx(90.0)
    assert early["hedgehog"].causes["KL"] == 0.72
    assert early["elu"].quality == pytest.approx(50.0)


def test_correlations_are_spearmans_over_attentions_without_softmax(records: list[RunRecord]) -> None:
    found = {(entry.place.split()[0], entry.cause): entry for entry in correlations(points_of(records))}
    for regime, table in (("finetuned", CONVERTED), ("scratch", FROM_SCRATCH)):
        rows = np.array([row for name, row in table.items() if name != "softmax"])
        for cause, column in (("entropy gap", 1), ("monotonicity", 2)):
            expected = scipy.stats.spearmanr(rows[:, column], rows[:, 0]).statistic
            assert found[regime, cause].rho == pytest.approx(expected)
            assert found[regime, cause].variants == 5
    # Of 120 orderings of five attentions one falls as strictly as from scratch, and one rises.
    assert found["scratch", "entropy gap"].rho == pytest.approx(-1)
    assert found["scratch", "entropy gap"].p == pytest.approx(2 / 120)
    assert found["scratch", "entropy gap"].verdict == "yes"
    assert found["scratch", "monotonicity"].verdict == "undecided"
    assert ("scratch", "KL") not in found


@pytest.mark.parametrize(("rho", "p", "verdict"), [(0.9, 0.01, "no"), (-0.9, 0.01, "yes"), (-0.9, 0.05, "undecided")])
def test_a_verdict_needs_a_sign_and_more_than_chance(rho: float, p: float, verdict: str) -> None:
    assert Correlation("place", "entropy gap", 5, rho, p).verdict == verdict


def test_too_few_or_equal_attentions_correlate_with_nothing(records: list[RunRecord]) -> None:
    few = [record for record in records if record.attn in ("softmax", "hedgehog", "elu", "taylor")]
    assert correlations(points_of(few)) == []
    assert "No place has 4 attentions" in finding_markdown(points_of(few), [])
    without = [record for record in records if record.regime == "scratch" and record.attn != "softmax"]
    # Without a softmax model from scratch there is nothing to measure gaps from.
    assert {point.causes["entropy gap"] for point in points_of(without)} == {None}


def test_the_command_writes_table_and_figure(
    records: list[RunRecord], tmp_path: Path, capsys: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture
) -> None:
    save_collection(records, tmp_path / "records")
    assert main([str(tmp_path / "records"), "--save", str(tmp_path / "out")]) == 0
    text = (tmp_path / "out" / "finding.md").read_text()
    assert text == capsys.readouterr().out
    assert "| scratch · minilm · movie_reviews | entropy gap | -1.00 | 0.017 | 5 | yes |" in text
    assert "| finetuned · minilm · movie_reviews | exp_t2 | 2 | 75.1 | 0.100 | 0.500 | 0.500 |" in text
    image = matplotlib.image.imread(tmp_path / "out" / "finding.png")
    assert image.shape[1] > 1000
    with caplog.at_level("ERROR"):
        assert main([str(tmp_path / "out")]) == 1
    assert caplog.messages == [f"roots must hold finished run records, found none below {tmp_path / 'out'}"]


def test_a_panel_without_numbers_says_so(records: list[RunRecord], tmp_path: Path) -> None:
    points = [point for point in points_of(records) if point.regime == "finetuned"]
    empty = matplotlib.image.imread(finding_figure(points, [], tmp_path / "one.png"))
    both = matplotlib.image.imread(finding_figure(points_of(records), [], tmp_path / "both.png"))
    assert (empty < 0.5).sum() < (both < 0.5).sum()
