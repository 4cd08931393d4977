"""`from=RUN`: the student of a finished run is analysed anew, and nothing else about its record changes."""

import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from cli import run_here
from runs import records

from mimicry.reporting.run_record import RunRecord, read_record, write_record

QUICK = ("regime.teach.epochs=1", "regime.distill.epochs=1", "regime.recover.epochs=1", "analysis.rows=32")
AGAIN = ("analysis=full", "analysis.rows=32", "trainer.accelerator=cpu")


def quantities(record: RunRecord, state: str) -> dict[str, np.ndarray]:
    return {grid.name: np.array(grid.values, dtype=float) for grid in record.heads if grid.stage == state}


def test_a_finished_run_is_analysed_without_training_with_its_teacher_as_long_as_it_is_kept(
    arguments: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    run_here(monkeypatch, "attn=hedgehog", *arguments, *QUICK)
    folder = records(tmp_path)[0].parent
    before = read_record(folder / "record.json")
    run_here(monkeypatch, f"from={folder}", *AGAIN)
    after = read_record(folder / "record.json")
    assert replace(after, heads=(), curves=(), artifacts={}) == replace(before, heads=(), curves=(), artifacts={})
    assert len(quantities(after, "recovered")) == 9
    assert len(quantities(after, "teacher")) == 5
    # The models are those that the run measured.
    for state in ("teacher", "recovered"):
        for name, values in quantities(before, state).items():
            np.testing.assert_allclose(quantities(after, state)[name], values, rtol=2e-4, atol=1e-5)
    assert quantities(after, "distilled").keys() == quantities(before, "distilled").keys()
    assert [grid.stage for grid in after.heads[:5]] == ["teacher"] * 5
    assert (folder / "analysis" / "monotonicity.png").is_file()
    check_without_teacher(folder, tmp_path, monkeypatch, capsys)


def check_without_teacher(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    shutil.rmtree(tmp_path / "cache" / "teachers")
    before = read_record(folder / "record.json")
    run_here(monkeypatch, f"from={folder}", "analysis.rows=32", "trainer.accelerator=cpu")
    assert "is not kept any more" in capsys.readouterr().err
    alone = read_record(folder / "record.json")
    assert set(quantities(alone, "recovered")) == {"analysis/entropy"}
    assert quantities(alone, "teacher").keys() == quantities(before, "teacher").keys()
    shutil.rmtree(folder / "student")
    with pytest.raises(SystemExit, match=r"from must still hold the student that the run saved, got no "):
        run_here(monkeypatch, f"from={folder}", *AGAIN)
    write_record(replace(alone, status="failed", reason="interrupted"), folder)
    with pytest.raises(SystemExit, match="from must be a run that finished, got one that failed: interrupted"):
        run_here(monkeypatch, f"from={folder}", *AGAIN)


def test_a_model_from_scratch_is_analysed_anew(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    options = ("regime=scratch", "task.num_symbols=8", "task.length=8", "task.max_train_rows=64", "analysis.rows=16")
    quick = ("task.max_validation_rows=16", "regime.train.epochs=1", "logger.mode=disabled", "trainer.accelerator=cpu")
    run_here(monkeypatch, *options, *quick, "attn=elu", f"paths.results={tmp_path / 'results'}")
    folder = records(tmp_path)[0].parent
    before = quantities(read_record(folder / "record.json"), "trained")["analysis/entropy"]
    run_here(monkeypatch, f"from={folder}", "analysis=full", "analysis.rows=16", "trainer.accelerator=cpu")
    after = quantities(read_record(folder / "record.json"), "trained")
    assert len(after) == 5
    np.testing.assert_allclose(after["analysis/entropy"], before, rtol=2e-4)
    (folder / "student" / "model.safetensors").unlink()
    with pytest.raises(SystemExit, match=r"from must hold the weights of its student, got no "):
        run_here(monkeypatch, f"from={folder}", *AGAIN)


def test_settings_of_the_run_are_refused_beside_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "record.json").write_text("{}")
    for option in ("attn=elu", "+task.typo=1", "seed=3"):
        name = option.lstrip("+").partition("=")[0]
        with pytest.raises(SystemExit, match=rf"from takes analysis and trainer alone, .* run's, got {name}"):
            run_here(monkeypatch, f"from={tmp_path}", option)
    with pytest.raises(SystemExit, match=r"from must be the folder of a finished run, .* got "):
        run_here(monkeypatch, f"from={tmp_path / 'nowhere'}")
    with pytest.raises(SystemExit, match=r"record.json: field 'schema_version' must be 1, got None"):
        run_here(monkeypatch, f"from={tmp_path}")
