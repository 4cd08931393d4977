from collections.abc import Callable
from pathlib import Path

import pytest

from mimicry.reporting.__main__ import main
from mimicry.reporting.asked import note_experiment
from mimicry.reporting.collation import read_collections
from mimicry.reporting.comparison import read_records
from mimicry.reporting.gathering import merge
from mimicry.reporting.run_record import RunRecord, run_folder, write_record

MakeRecord = Callable[..., RunRecord]


def run(root: Path, record: RunRecord) -> None:
    write_record(record, run_folder(root / "runs", "r", "m", "t", record.attn, record.seed, record.fingerprint))


@pytest.fixture
def root(make_record: MakeRecord, tmp_path: Path) -> Path:
    """Two runs of an experiment, a smoke run of it and a run of no experiment."""
    root = tmp_path / "results"
    glue = {"regime": "finetuned", "experiments": "some_glue"}
    run(root, make_record(seed=0, fingerprint="0" * 16, choices=glue))
    run(root, make_record(seed=1, fingerprint="1" * 16, choices=glue))
    run(root, make_record(seed=2, fingerprint="2" * 16, choices=glue | {"debug": "smoke"}))
    run(root, make_record(seed=3, fingerprint="3" * 16, choices={"regime": "finetuned"}))
    return root


def seeds(root: Path) -> list[int]:
    return [record.seed for record in read_records(root / "some_glue")]


def test_runs_of_an_experiment_join_its_folder_and_get_their_tables(
    root: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main([str(root)]) == 0
    told = capsys.readouterr()
    assert f"{root / 'some_glue'}: 2 new records" in told.err
    assert "# some_glue" in told.out
    # The smoke run and the one of no experiment.
    assert "# single records" in told.out
    assert seeds(root) == [0, 1]
    assert "| hedgehog | 2 |" in (root / "some_glue" / "table.md").read_text()


def test_a_second_time_nothing_is_new_and_a_later_run_is_added_behind(
    root: Path, make_record: MakeRecord, capsys: pytest.CaptureFixture[str]
) -> None:
    main([str(root)])
    before = (root / "some_glue" / "records.jsonl").read_bytes()
    capsys.readouterr()
    main([str(root)])
    assert "new record" not in capsys.readouterr().err
    assert (root / "some_glue" / "records.jsonl").read_bytes() == before
    run(root, make_record(seed=9, attn="elu", fingerprint="9" * 16, choices={"experiments": "some_glue"}))
    main([str(root)])
    assert seeds(root) == [0, 1, 9]
    assert (root / "some_glue" / "records.jsonl").read_bytes().startswith(before)


def test_a_run_that_two_experiments_asked_for_joins_both(root: Path, make_record: MakeRecord) -> None:
    (folder,) = {path.parent for path in root.rglob("record.json") if "0000" in str(path)}
    for experiment in ("mini/other", "some_glue", "mini/other"):
        note_experiment(folder, experiment)
    assert (folder / "experiments.txt").read_text() == "mini/other\nsome_glue\n"
    main([str(root)])
    assert seeds(root) == [0, 1]
    assert [record.seed for record in read_records(root / "mini" / "other")] == [0]


def test_only_a_results_folder_gathers(root: Path) -> None:
    assert main([str(root / "runs")]) == 0
    assert read_collections(root, root) == []


def test_a_finished_run_replaces_a_failed_one_and_a_later_one_an_earlier(make_record: MakeRecord) -> None:
    finished = make_record(started_at="2024-01-02T00:00:00+00:00")
    failed = make_record(status="failed", reason="ValueError: no", started_at="2024-01-03T00:00:00+00:00")
    later = make_record(started_at="2024-01-04T00:00:00+00:00")
    assert merge([failed], [finished]) == [finished]
    assert merge([finished], [failed]) == [finished]
    assert merge([later], [finished]) == [later]
    assert merge([finished], [later]) == [later]
