"""The full analysis of runs, from the command line: recorded, drawn, mirrored, and without effect on training."""

import json
import re
from pathlib import Path

import numpy as np
import pyarrow.parquet
import pytest
from cli import run_here
from runs import records
from safetensors.torch import load_file

from mimicry.reporting.attention_maps import read_attention_maps
from mimicry.reporting.run_record import RunRecord, read_record

QUICK = ("regime.teach.epochs=1", "regime.distill.epochs=1", "regime.recover.epochs=1", "analysis.rows=32")
OF_EVERY_STATE = {"entropy", "entropy_normalised", "monotonicity", "kendall", "isotonic_r2"}
FIDELITY = {"kl", "total_variation", "top_k", "output_cosine"}


def measured(record: RunRecord, state: str) -> dict[str, np.ndarray]:
    """Values of layers and heads by quantity."""
    return {
        grid.name.removeprefix("analysis/"): np.array(grid.values, dtype=float)
        for grid in record.heads
        if grid.stage == state
    }


def test_a_conversion_records_every_quantity_of_every_state_and_trains_the_same(
    arguments: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    weights = {}
    for analysis in ("summary", "full"):
        options = ("attn=hedgehog", f"analysis={analysis}", *arguments, *QUICK, "logger.mode=offline", "rerun=true")
        run_here(monkeypatch, *options, f"paths.results={tmp_path / 'results' / analysis}")
        (path,) = (tmp_path / "results" / analysis).rglob("record.json")
        weights[analysis] = load_file(path.parent / "student/model.safetensors")
        assert re.search(r"\d+ s in all, of which \d+ s \(\d+%\) for attention's analysis", capsys.readouterr().out)
    brief, full = map(read_record, sorted(records(tmp_path), key=lambda path: "full" in str(path)))
    # Bit for bit: what is measured has no say in what is learnt.
    assert weights["summary"].keys() == weights["full"].keys()
    assert all(value.equal(weights["full"][name]) for name, value in weights["summary"].items())
    assert 0 < brief.analysis_s < brief.wall_s
    assert 0 < full.analysis_s < full.wall_s
    assert set(measured(brief, "teacher")) == {"entropy"}
    assert "attention page" not in brief.artifacts
    assert set(measured(brief, "recovered")) == {"entropy", "kl"}
    assert {curve.name for curve in brief.curves} == {"train/loss"}
    assert set(measured(full, "teacher")) == OF_EVERY_STATE
    for state in ("no_train", "distilled", "recovered"):
        values = measured(full, state)
        assert set(values) == OF_EVERY_STATE | FIDELITY
        assert values["entropy"].shape == (2, 4)
        assert values["kl"].mean() == pytest.approx(full.value(state, "analysis/kl"), rel=1e-4)
    np.testing.assert_allclose(measured(full, "teacher")["monotonicity"], 1.0, atol=1e-6)
    assert {curve.name for curve in full.curves if curve.stage == "recovered"} == {
        "train/loss",
        "analysis/monotonicity",
        "analysis/entropy_histogram",
        "analysis/entropy_normalised",
        "analysis/kl",
    }
    assert max(len(curve.x) for curve in full.curves if curve.name.startswith("analysis/")) <= 64
    check_files(path.parent, full)


def check_files(folder: Path, record: RunRecord) -> None:
    teacher, student, tokens = read_attention_maps(folder / record.artifacts["attention maps"])
    assert teacher.shape == student.shape == (2, 4, len(tokens), len(tokens))
    assert tokens[0] == "[CLS]"
    page = (folder / record.artifacts["attention page"]).read_text(encoding="utf-8")
    assert json.dumps(tokens, separators=(",", ":")) in page
    rows = pyarrow.parquet.read_table(folder / record.artifacts["analysis"] / "heads.parquet").to_pylist()
    one = next(row for row in rows if (row["state"], row["quantity"], row["layer"], row["head"]) == QUARTER)
    assert one["mean"] == pytest.approx(measured(record, "recovered")["kl"][1, 2], rel=1e-4)
    assert 0 <= one["p05"] <= one["p50"] <= one["p95"]
    assert one["count"] > 100
    # W&B has them too.
    media = {path.relative_to(folder).as_posix() for path in folder.rglob("*") if "media" in path.parts}
    for name in ("table/analysis/heads", "table/analysis/curves", "images/analysis/monotonicity_scatter/figure"):
        assert any(name in path for path in media), name


QUARTER = ("recovered", "analysis/kl", 1, 2)


def test_a_model_from_scratch_is_analysed_without_a_teacher(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    options = ("regime=scratch", "task.num_symbols=8", "task.length=8", "task.max_train_rows=64", "analysis.rows=16")
    quick = ("task.max_validation_rows=16", "regime.train.epochs=1", "logger.mode=disabled", "trainer.accelerator=cpu")
    run_here(monkeypatch, *options, *quick, "analysis=full", "attn=taylor", f"paths.results={tmp_path / 'results'}")
    record = read_record(records(tmp_path)[0])
    values = measured(record, "trained")
    assert set(values) == OF_EVERY_STATE
    assert np.isfinite(values["monotonicity"]).all()
    content = json.loads((records(tmp_path)[0].parent / "attention_maps.json").read_text())
    assert content["teacher"] is None
