import logging
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from mimicry.reporting.__main__ import main
from mimicry.reporting.comparison import all_sheets, comparison_sheet, group_records, read_records
from mimicry.reporting.run_record import ModelState, RunRecord, run_folder, write_record
from mimicry.reporting.settings import settings_sheets
from mimicry.reporting.summary import summary_sheets
from mimicry.reporting.tidy import tidy_csv

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
    markdown = comparison_sheet(read_records(tmp_path)).markdown()
    assert markdown.startswith("**finetuned · minilm · movie_reviews** · accuracy (%), mean ± 95 % interval")
    hedgehog = [
        "hedgehog",
        "2 of 3",
        "80.0 ± 0.0",
        "50.0 ± 0.0",
        "72.0 ± 0.0",
        "78.0 ± 25.4",
        "97.5 ± 31.8",
        "78.0 ± 25.4",
    ]
    assert cells(markdown, "hedgehog") == [*hedgehog, "0.125 ± 0.000", "1.250 ± 0.000", "1.500 ± 0.000"]
    assert cells(markdown, "t2r") == ["t2r", "0 of 1", *["–"] * 9]


def test_one_seed_has_no_interval(make_record: MakeRecord) -> None:
    assert cells(comparison_sheet([make_record()]).markdown(), "hedgehog")[1:4] == ["1", "80.0", "50.0"]


def test_a_value_that_some_seeds_lack_names_how_many_have_it(make_record: MakeRecord) -> None:
    records = [make_record(seed=0), make_record(seed=1, scores={"teacher": 0.8})]
    assert cells(comparison_sheet(records).markdown(), "hedgehog")[5] == "76.0 (n=1)"


def test_without_recovery_the_distilled_student_is_compared(make_record: MakeRecord) -> None:
    markdown = comparison_sheet([make_record(scores={"teacher": 0.8, "distilled": 0.72})]).markdown()
    assert "% of teacher, distilled" in markdown
    assert cells(markdown, "hedgehog")[5:7] == ["–", "90.0"]


def test_runs_that_differ_in_more_than_the_seed_get_rows_named_by_what_differs(make_record: MakeRecord) -> None:
    def config(seed: int, **changes: object) -> dict[str, object]:
        return {"seed": seed, "attn": {"tie_maps": False, "bias": True} | changes}

    records = [
        make_record(seed=0, config=config(0)),
        make_record(seed=1, config=config(1)),
        make_record(seed=0, config=config(0, tie_maps=True)),
        make_record(seed=0, config=config(0, bias=False)),
    ]
    rows = [
        line.split("|")[1:3]
        for line in comparison_sheet(records).markdown().splitlines()
        if line.startswith("| hedgehog")
    ]
    assert {label.strip(): seeds.strip() for label, seeds in rows} == {
        "hedgehog": "2",
        "hedgehog (tie_maps=True)": "1",
        "hedgehog (bias=False)": "1",
    }


def test_where_the_data_lay_makes_no_rows_of_its_own(make_record: MakeRecord) -> None:
    records = [make_record(seed=seed, config={"task": {"root": f"copy{seed}", "max_train_rows": 9}}) for seed in (0, 1)]
    assert cells(comparison_sheet(records).markdown(), "hedgehog")[1] == "2"


def test_a_seed_that_ran_again_elsewhere_or_in_full_counts_once_as_it_ran_last(make_record: MakeRecord) -> None:
    def run(hour: int, recovered: float, seed: int = 0, **config: object) -> RunRecord:
        started = f"2024-01-01T{hour:02d}:00:00+00:00"
        return make_record(seed=seed, config=config, started_at=started, scores=SCORES | {"recovered": recovered})

    roots = [run(hour, 0.5, task={"root": f"copy{hour}"}, analysis={"rows": 9}) for hour in (1, 2, 3)]
    full = run(9, 0.6, task={"root": "copy1"}, analysis={"rows": 9, "full": {"queries": 2}})
    late = replace(run(10, 0.1, task={"root": "copy1"}), status="failed", reason="ValueError: no", config=full.config)
    again = [full, *roots, late]
    assert cells(comparison_sheet(again).markdown(), "hedgehog")[1:6] == ["1", "80.0", "50.0", "72.0", "60.0"]
    lines = [line.split(",") for line in tidy_csv(again).splitlines() if ",recovered,val/accuracy," in line]
    assert [line[-4:] for line in lines] == [["1", "60", "", ""]]
    other = run(1, 0.8, seed=1, task={"root": "copy1"}, analysis={"rows": 9})
    assert cells(comparison_sheet([*again, other]).markdown(), "hedgehog")[1] == "2"
    # Runs of another task of the same seed are no repetition.
    elsewhere = [replace(record, task="other") for record in (*again, other)]
    (sheet,) = summary_sheets([[*again, other], elsewhere])
    assert cells(sheet.markdown(), "hedgehog")[1:4] == ["70.0", "70.0", "70.0 ± 127.1"]


def test_a_full_analysis_makes_no_rows_of_its_own(make_record: MakeRecord) -> None:
    analyses = ({"rows": 9}, {"rows": 9, "full": {"queries": 2}})
    records = [make_record(seed=seed, config={"analysis": analysis}) for seed, analysis in enumerate(analyses)]
    assert cells(comparison_sheet(records).markdown(), "hedgehog")[1] == "2"


def test_where_no_setting_is_the_usual_one_all_are_named(make_record: MakeRecord) -> None:
    lines = comparison_sheet([make_record(config={"epochs": epochs}) for epochs in (0, 4)]).lines
    assert [line[0] for line in lines[1:]] == ["hedgehog (epochs=0)", "hedgehog (epochs=4)"]


def test_an_option_that_came_later_is_not_told(make_record: MakeRecord) -> None:
    older = [make_record(seed=seed, config={"attn": {"bias": True}}) for seed in (0, 1)]
    newer = make_record(config={"attn": {"bias": False, "backend": "auto"}, "rerun": False})
    lines = comparison_sheet([*older, newer]).lines
    assert [line[0] for line in lines[1:]] == ["hedgehog", "hedgehog (bias=False)"]


def test_a_row_whose_maps_saw_another_corpus_names_the_corpus(make_record: MakeRecord) -> None:
    here = [make_record(seed=seed, config={"maps_corpus": None}) for seed in (0, 1)]
    corpus = {"name": "movie_reviews", "source": "reviews.tsv", "fingerprint": "e" * 64, "rows": 9}
    loader = {"_target_": "mimicry.data.movie_reviews.MovieReviews", "max_train_rows": None}
    elsewhere = make_record(config={"maps_corpus": loader}, data=here[0].data | {"maps_corpus": corpus})
    table = comparison_sheet([*here, elsewhere]).markdown()
    assert cells(table, "hedgehog |")[1] == "2"
    assert cells(table, "hedgehog (maps_corpus=movie_reviews) |")[1] == "1"


def test_the_data_of_a_table_stands_under_its_title_and_other_data_get_another_table(make_record: MakeRecord) -> None:
    record = make_record()
    line = comparison_sheet([record]).markdown().splitlines()[2]
    assert line.startswith(
        "Data: train 900 of 2,000 (reviews.tsv), held out 100 (training rows, to choose settings on)"
    )
    assert line.endswith("validation 50 (dev.tsv); fingerprint ffffffffffff.")
    lacking = make_record(data=record.data | {"fingerprint": "e" * 64, "missing": ["validation_mismatched (no file)"]})
    assert "; missing: validation_mismatched (no file)." in comparison_sheet([lacking]).markdown()
    assert len(group_records([record, lacking])) == 2


def test_a_run_that_failed_early_stands_with_those_that_asked_for_the_same_data(make_record: MakeRecord) -> None:
    def run(rows: int, data: str) -> RunRecord:
        about = make_record().data | {"fingerprint": data * 64}
        return make_record(attn="elu", config={"task": {"name": "sst2", "max_train_rows": rows}}, data=about)

    def failed(rows: int) -> RunRecord:
        return replace(run(rows, "f"), attn="t2r", data={}, status="failed", reason="ValueError: no", metrics=())

    few, many = run(64, "a"), run(2000, "b")
    for records in ([few, many, failed(64)], [many, failed(64), few]):
        groups = list(group_records(records).values())
        assert len(groups) == 2
        shared = next(group for group in groups if few in group)
        assert {record.attn for record in shared} == {"elu", "t2r"}
        # A table of its own makes the same of them.
        assert len(group_records(shared)) == 1
    # Nobody else asked for these rows; and where one question had two answers, neither is taken.
    for records in ([few, many, failed(9)], [few, run(64, "b"), failed(64)]):
        alone, *others = group_records(records).values()
        assert [record.attn for record in alone] == ["t2r"]
        assert "Data: no run finished." in comparison_sheet(alone).markdown()
        assert len(others) == 2


def test_the_settings_that_won_and_their_costs_stand_beside_the_scores(make_record: MakeRecord) -> None:
    (sheet,) = settings_sheets([make_record(seed=0), make_record(seed=1, attn="elu")])
    lines = sheet.markdown().splitlines()[2:]
    rows = [[cell.strip() for cell in line.strip("|").split("|")] for line in lines]
    assert rows[2] == ["all", "teach", "1 at 0.0002 (2)", "–", "100 ± 0", "12 ± 0", "–", "2000 ± 0"]
    among = "1 at 0.0001, 2 at 0.0001"
    assert rows[3] == ["elu", "recover", "2 at 0.0001 (1)", among, "100", "12", "18", "–"]


def test_all_tasks_of_a_model_are_summed_up_as_the_paper_does(make_record: MakeRecord) -> None:
    def run(task: str, seed: int, teacher: float, recovered: float) -> RunRecord:
        scores: dict[ModelState, float] = {"teacher": teacher, "no_train": teacher / 2, "recovered": recovered}
        return make_record(task=task, seed=seed, scores=scores)

    groups = [
        [run("a", 0, 0.8, 0.8), run("a", 1, 0.8, 0.6)],
        [run("b", 0, 0.4, 0.2), run("b", 1, 0.4, 0.4), run("b", 2, 0.4, 0.0)],
    ]
    (sheet,) = summary_sheets(groups)
    table = sheet.markdown()
    # Row mean over teacher mean: (0.8 + 0.2) / (0.8 + 0.4), not the mean of 100 and 50 percent; seed 2 lacks a task.
    assert cells(table, "hedgehog") == ["hedgehog", "70.0", "20.0", "50.0 ± 0.0", "83.3 ± 0.0", "50.0 ± 0.0", "2"]
    assert summary_sheets(groups[:1]) == []


def test_a_mean_over_tasks_does_not_mix_settings(make_record: MakeRecord) -> None:
    def run(task: str, seed: int, **options: float) -> RunRecord:
        return make_record(task=task, seed=seed, config={"task": {"name": task}, "optimizer": {"lr": 1e-3}} | options)

    # Each task has one kind of run, and alone would call it hedgehog.
    groups = [[run("a", 0), run("a", 1)], [run("b", 0, decay=0.5)], [run("c", 0), run("c", 1)]]
    (sheet,) = summary_sheets(groups)
    table = sheet.markdown()
    assert cells(table, "hedgehog")[1:5] == ["76.0", "–", "76.0", "–"]
    assert cells(table, "hedgehog (decay=0.5)")[1:4] == ["–", "76.0", "–"]


def test_data_sets_of_one_task_have_columns_of_their_own_and_one_enters_the_mean(make_record: MakeRecord) -> None:
    def run(task: str, recovered: float, rows: int, data: str = "f", **changes: object) -> RunRecord:
        about = make_record().data | {"fingerprint": data * 64, "rows": {"train": rows, "validation": 50}}
        scores = SCORES | {"recovered": recovered}
        config = {"attn": {"name": "hedgehog"}, "task": {"name": task, "max_train_rows": rows, "root": data}}
        return make_record(task=task, data=about, scores=scores, **{"config": config, **changes})

    several = [run("sst2", 0.4, 64), run("sst2", 0.6, 2000, "a"), run("sst2", 0.7, 2000, "b"), run("sst2", 0.3, 9)]
    assert not [sheet for sheet in all_sheets(several) if "all tasks" in sheet.title]
    # Most runs: it ran with two seeds.
    records = [*several, run("sst2", 0.5, 64, seed=1), run("cola", 0.8, 900), run("cola", 0.8, 900, seed=1)]
    (sheet,) = (sheet for sheet in all_sheets(records) if "all tasks" in sheet.title)
    header, *body = sheet.lines
    others = ["sst2 (accuracy, 2,000 rows, data aaaaaa)", "sst2 (accuracy, 2,000 rows, data bbbbbb)"]
    expected = {
        "attention": "hedgehog",
        "cola (accuracy)": "80.0",
        **dict(zip(others, ("60.0", "70.0"), strict=True)),
        "sst2 (accuracy, 64 rows)": "45.0",
        "sst2 (accuracy, 9 rows)": "30.0",
        "mean": "62.5 ± 31.8",
    }
    (row,) = (dict(zip(header, line, strict=True)) for line in body)
    assert {name: row[name] for name in expected} == expected
    assert len(header) == len(row) == len(expected) + 3
    assert row["seeds"] == "2"
    left_out = [*others, "sst2 (accuracy, 9 rows)"]
    assert all(name in sheet.about for name in left_out)
    assert "64 rows" not in sheet.about


def test_records_of_several_tasks_do_not_share_a_table(make_record: MakeRecord) -> None:
    with pytest.raises(ValueError, match="records must share one regime, model, task and data"):
        comparison_sheet([make_record(), make_record(task="other")]).markdown()


def test_the_command_prints_one_table_per_task_and_skips_broken_files(
    make_record: MakeRecord, tmp_path: Path, capsys: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture
) -> None:
    write_record(make_record(), tmp_path / "a")
    write_record(make_record(task="other"), tmp_path / "b")
    (tmp_path / "record.json").write_text("{", encoding="utf-8")
    with caplog.at_level(logging.WARNING):
        assert main([str(tmp_path)]) == 0
    printed = capsys.readouterr().out
    # One row of results and one of settings for each task, and one in the table of all tasks.
    assert printed.count("| hedgehog |") == 5
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
