import logging
from collections.abc import Callable
from pathlib import Path

import pytest

from mimicry.reporting.__main__ import main
from mimicry.reporting.comparison import comparison_markdown, read_records
from mimicry.reporting.run_record import ModelState, RunRecord, run_folder, write_record

MakeRecord = Callable[..., RunRecord]
SCORES: dict[ModelState, float] = {"teacher": 0.80, "no_train": 0.50, "distilled": 0.72, "recovered": 0.76}


def cells(markdown: str, label: str) -> list[str]:
    line = next(line for line in markdown.splitlines() if line.startswith(f"| {label}"))
    return [cell.strip() for cell in line.strip("|").split("|")]


def test_seeds_are_averaged_and_a_failed_one_is_left_out(make_record: MakeRecord, tmp_path: Path) -> None:
    records = [
        make_record(seed=0, scores=SCORES),
        make_record(seed=1, scores=SCORES | {"recovered": 0.80}),
        make_record(seed=2, scores={"teacher": 0.1}, status="failed", reason="ValueError: no"),
        make_record(seed=0, attn="t2r", status="failed", reason="ValueError: no", metrics=()),
    ]
    for record in records:
        write_record(record, run_folder(tmp_path, "finetuned", "m", "t", record.attn, record.seed, "f"))
    markdown = comparison_markdown(read_records(tmp_path))
    assert markdown.startswith("**finetuned · minilm · movie_reviews** · accuracy (%), mean ± standard deviation")
    hedgehog = ["hedgehog", "2 of 3", "80.0 ± 0.0", "50.0 ± 0.0", "72.0 ± 0.0", "78.0 ± 2.8", "97.5 ± 3.5"]
    assert cells(markdown, "hedgehog") == [*hedgehog, "0.125 ± 0.000", "1.250 ± 0.000", "1.500 ± 0.000"]
    assert cells(markdown, "t2r") == ["t2r", "0 of 1", *["–"] * 8]


def test_one_seed_has_no_deviation(make_record: MakeRecord) -> None:
    assert cells(comparison_markdown([make_record()]), "hedgehog")[1:4] == ["1", "80.0", "50.0"]


def test_a_value_that_some_seeds_lack_names_how_many_have_it(make_record: MakeRecord) -> None:
    records = [make_record(seed=0), make_record(seed=1, scores={"teacher": 0.8})]
    assert cells(comparison_markdown(records), "hedgehog")[5] == "76.0 (n=1)"


def test_without_recovery_the_distilled_student_is_compared(make_record: MakeRecord) -> None:
    markdown = comparison_markdown([make_record(scores={"teacher": 0.8, "distilled": 0.72})])
    assert "% of teacher, distilled" in markdown
    assert cells(markdown, "hedgehog")[5:7] == ["–", "90.0"]


def test_runs_that_differ_in_more_than_the_seed_are_not_averaged(make_record: MakeRecord) -> None:
    records = [
        make_record(seed=0, config={"seed": 0, "lr": 0.1}),
        make_record(seed=1, config={"seed": 1, "lr": 0.1}),
        make_record(seed=0, config={"seed": 0, "lr": 0.2}),
    ]
    rows = [line for line in comparison_markdown(records).splitlines() if line.startswith("| hedgehog (")]
    assert sorted(row.split("|")[2].strip() for row in rows) == ["1", "2"]


def test_records_of_several_tasks_do_not_share_a_table(make_record: MakeRecord) -> None:
    with pytest.raises(ValueError, match="records must share one regime, model and task"):
        comparison_markdown([make_record(), make_record(task="other")])


def test_the_command_prints_one_table_per_task_and_skips_broken_files(
    make_record: MakeRecord, tmp_path: Path, capsys: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture
) -> None:
    write_record(make_record(), tmp_path / "a")
    write_record(make_record(task="other"), tmp_path / "b")
    (tmp_path / "record.json").write_text("{", encoding="utf-8")
    with caplog.at_level(logging.WARNING):
        assert main([str(tmp_path)]) == 0
    printed = capsys.readouterr().out
    assert printed.count("| hedgehog |") == 2
    assert "**finetuned · minilm · other**" in printed
    assert "ignoring a broken run record" in caplog.text


def test_the_command_fails_in_one_line_without_records(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    assert main([str(tmp_path)]) == 1
    assert f"root must hold a readable run record, found none below {tmp_path}" in caplog.text


def test_saved_records_rebuild_the_same_table_anywhere(
    make_record: MakeRecord, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for seed in (0, 1):
        write_record(make_record(seed=seed), tmp_path / "runs" / str(seed))
    assert main([str(tmp_path / "runs"), "--save", str(tmp_path / "kept")]) == 0
    shown = capsys.readouterr().out
    assert (tmp_path / "kept" / "table.md").read_text() == shown
    assert main([str(tmp_path / "kept")]) == 0
    assert capsys.readouterr().out == shown


def test_a_broken_line_of_saved_records_is_warned_about_by_number(
    make_record: MakeRecord, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    write_record(make_record(), tmp_path / "runs")
    main([str(tmp_path / "runs"), "--save", str(tmp_path / "kept")])
    with (tmp_path / "kept" / "records.jsonl").open("a") as file:
        file.write('{"schema_version": 99}\n')
    with caplog.at_level(logging.WARNING):
        assert len(read_records(tmp_path / "kept")) == 1
    assert "records.jsonl:2: field 'schema_version'" in caplog.text
