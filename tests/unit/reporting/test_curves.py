import math
import statistics
from pathlib import Path

import pytest

from mimicry.reporting.curves import MAX_POINTS, training_curves
from mimicry.reporting.run_record import ModelState, TrialRecord


def log(folder: Path, name: str, header: str, *rows: str) -> None:
    (folder / name).mkdir()
    (folder / name / "metrics.csv").write_text("\n".join([header, *rows]) + "\n", encoding="utf-8")


def trial(stage: ModelState, epochs: int, rate: float, chosen: bool = True) -> TrialRecord:
    return TrialRecord(stage, epochs, rate, 10, 1.0, None, None, chosen)


def test_each_stage_gives_the_curves_of_what_it_logged(tmp_path: Path) -> None:
    log(tmp_path, "distill", "distill/kl,distill/loss,distill/soft_xent,epoch,step", "0.5,1.5,1.5,0,9", "0.2,1,1,0,19")
    log(tmp_path, "recover", "epoch,step,train/loss,val/accuracy", "0,9,0.7,", "0,9,,0.8", "1,19,nan,")
    curves = {(curve.stage, curve.name): (curve.x, curve.y) for curve in training_curves(tmp_path, ())}
    # The soft cross-entropy is the whole loss, and would only repeat it.
    assert curves == {
        ("distilled", "distill/kl"): ((9.0, 19.0), (0.5, 0.2)),
        ("distilled", "distill/loss"): ((9.0, 19.0), (1.5, 1.0)),
        ("recovered", "train/loss"): ((9.0, 19.0), (0.7, None)),
        ("recovered", "val/accuracy"): ((9.0,), (0.8,)),
    }


def test_a_long_curve_is_averaged_to_at_most_a_hundred_points(tmp_path: Path) -> None:
    values = [math.exp(-step / 300) for step in range(1001)]
    log(tmp_path, "train", "step,train/loss", *(f"{step},{value}" for step, value in enumerate(values)))
    (curve,) = training_curves(tmp_path, ())
    assert 50 < len(curve.x) <= MAX_POINTS
    assert (curve.x[0], curve.x[-1]) == (10.0, 1000.0)
    assert curve.y[0] == pytest.approx(statistics.fmean(values[:11]), rel=1e-4)


def test_of_several_settings_the_winners_curves_are_kept(tmp_path: Path) -> None:
    for rate, value in (("0.0001", 0.5), ("0.0003", 0.25)):
        log(tmp_path, f"recover 2 at {rate}", "step,train/loss", f"9,{value}")
    log(tmp_path, "recover 5 at 0.0003", "step,train/loss", "9,0.125")
    trials = [trial("recovered", 2, 1e-4, chosen=False), trial("recovered", 2, 3e-4)]
    (curve,) = training_curves(tmp_path, trials)
    assert curve.y == (0.25,)
    # Stopped early, after four epochs of five.
    (curve,) = training_curves(tmp_path, [trial("recovered", 4, 3e-4)])
    assert curve.y == (0.125,)
    # A run that failed before it could choose.
    assert len(training_curves(tmp_path, [])) == 3


def test_without_logs_there_are_no_curves(tmp_path: Path) -> None:
    log(tmp_path, "something else", "step,train/loss", "1,1")
    log(tmp_path, "teach", "step,train/loss")
    assert training_curves(tmp_path, ()) == ()
    assert training_curves(tmp_path / "nothing", ()) == ()
