import io
import math
import re
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
from rich.console import Console

from mimicry.reporting.console import show
from mimicry.reporting.run_record import Measurement, ModelState, RunRecord, StageTime
from mimicry.reporting.tables import (
    StateRow,
    conversion_cells,
    conversion_markdown,
    conversion_tables,
    conversion_title,
    fraction_of_teacher,
    state_rows,
)

MakeRecord = Callable[..., RunRecord]


def row(state: ModelState, accuracy: float | None, kl: float | None = None) -> StateRow:
    return StateRow(state, {"val/accuracy": accuracy}, kl, 1.5, 3.25)


def cells(markdown: str, label: str) -> list[str]:
    line = next(line for line in markdown.splitlines() if line.startswith(f"| {label}"))
    return [cell.strip() for cell in line.strip("|").split("|")]


def test_scores_are_shown_in_percent_and_the_rest_in_its_unit() -> None:
    markdown = conversion_markdown("title", [row("teacher", 0.8), row("distilled", 0.72, kl=0.1234)])
    assert markdown.startswith("**title**\n\n")
    header = ["attention", "accuracy (%)", "% of teacher", "KL (nats)", "entropy (nats)", "time (s)"]
    assert cells(markdown, "attention") == header
    assert cells(markdown, "teacher") == ["teacher (softmax)", "80.0", "100.0", "–", "1.500", "3.2"]
    assert cells(markdown, "distilled") == ["distilled", "72.0", "90.0", "0.123", "1.500", "3.2"]


def test_a_state_that_did_not_run_is_a_gap_and_not_a_zero() -> None:
    markdown = conversion_markdown("title", [row("teacher", 0.8)])
    assert cells(markdown, "recovered") == ["recovered", "–", "–", "–", "–", "–"]


def test_a_zero_that_was_measured_stays_a_zero() -> None:
    markdown = conversion_markdown("title", [row("teacher", 0.8), row("no_train", 0.0, kl=0.0)])
    assert cells(markdown, "no train")[1:4] == ["0.0", "0.0", "0.000"]


def test_a_number_that_is_not_finite_is_a_gap() -> None:
    markdown = conversion_markdown("title", [row("teacher", 0.8), row("no_train", float("nan"), kl=float("inf"))])
    assert cells(markdown, "no train")[1:4] == ["–", "–", "–"]


@pytest.mark.parametrize("teacher", [0.0, -0.1, None])
def test_no_share_is_kept_of_a_teacher_at_or_below_zero(teacher: float | None) -> None:
    assert fraction_of_teacher("val/accuracy", 0.5, teacher) is None
    assert cells(conversion_markdown("title", [row("teacher", teacher), row("recovered", 0.5)]), "recovered")[2] == "–"


def test_a_likelihood_is_shown_as_perplexity_and_a_lower_one_keeps_more() -> None:
    rows = [
        StateRow("teacher", {"val/nll_token": math.log(20.0)}, None, 1.0, None),
        StateRow("recovered", {"val/nll_token": math.log(25.0)}, 0.1, 1.0, 1.0),
    ]
    markdown = conversion_markdown("title", rows)
    assert "| PPL / token |" in markdown
    assert cells(markdown, "teacher")[1:3] == ["20.00", "100.0"]
    assert cells(markdown, "recovered")[1:3] == ["25.00", "80.0"]


def test_every_further_metric_gets_its_own_column(make_record: MakeRecord) -> None:
    markdown = conversion_markdown("title", state_rows(make_record()))
    assert cells(markdown, "attention")[1:4] == ["accuracy (%)", "% of teacher", "f1 (%)"]
    assert cells(markdown, "recovered") == ["recovered", "76.0", "95.0", "76.0", "0.125", "1.500", "6.2"]


def test_the_terminal_table_fits_eighty_columns_and_starts_with_its_title() -> None:
    title = conversion_title("hedgehog", "movie_reviews", "minilm", 0)
    output = io.StringIO()
    (table,) = conversion_tables(title, [row("teacher", 0.8), row("recovered", 0.76)], 80)
    Console(file=output, width=80).print(table)
    lines = output.getvalue().splitlines()
    assert lines[0].strip() == "hedgehog on movie_reviews · minilm · seed 0"
    assert any("recovered" in line and "95.0" in line for line in lines)
    assert "…" not in output.getvalue()


@pytest.fixture
def summarised(make_record: MakeRecord) -> RunRecord:
    """A conversion scored by perplexities of any size, ROUGE, and with its attention analysed."""
    scores = {
        "val/nll_token": 10.84,
        "val/nll_word": 13.9,
        "val/rouge1": 0.4321,
        "val/rouge2": 0.1987,
        "val/rougeL": 0.3,
    }
    kinds = {"val/nll_token": "nats/token", "val/nll_word": "nats/word"}
    return make_record(
        task="samsum",
        metrics=(
            *(
                Measurement(name, value - 0.1 * number, kinds.get(name, "fraction"), state, "validation")
                for number, state in enumerate(("no_train", "distilled", "recovered", "teacher"))
                for name, value in scores.items()
            ),
            Measurement("analysis/kl", 12.345, "nats", "no_train", "validation"),
            Measurement("analysis/entropy", 3.456, "nats", "teacher", "validation"),
        ),
        stages=(StageTime("teacher", 123456.7, 100, None),),
    )


def numbers(text: str) -> list[str]:
    return sorted(re.findall(r"[\d,]*\d\.?\d*", text))


@pytest.mark.parametrize("width", [34, 60, 80, 100, 300])
def test_no_number_is_cut_however_narrow_the_terminal(summarised: RunRecord, width: int) -> None:
    rows, output = state_rows(summarised), io.StringIO()
    tables = conversion_tables("title", rows, width)
    console = Console(file=output, width=width)
    for table in tables:
        console.print(table)
    text = output.getvalue()
    # Every cell and no word of a header is broken; each table says whose numbers it holds.
    body = [cell for line in conversion_cells(rows)[1:] for cell in line]
    assert numbers(re.sub(r"rouge\d", "", text)) == numbers(" ".join(body))
    assert {"51,021", "1,088,161", "123,457", "12.345", "3.456"} <= set(numbers(text))
    assert "…" not in text
    assert max(map(len, text.splitlines())) <= width
    assert text.count("teacher (softmax)") == text.count("recovered") == len(tables)
    for word in ("token", "word", "teacher", "rouge1", "rouge2", "rougeL", "(nats)", "entropy", "time"):
        assert re.search(rf"(?<!\w){re.escape(word)}(?!\w)", text), word


def test_a_wide_terminal_has_one_table_with_whole_headers(summarised: RunRecord) -> None:
    (table,) = conversion_tables("title", state_rows(summarised), 300)
    assert [column.header for column in table.columns] == conversion_cells(state_rows(summarised))[0]


@pytest.mark.parametrize("columns", ["80", "20"])
def test_what_a_run_shows_at_its_end_is_whole(
    summarised: RunRecord,
    columns: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setenv("COLUMNS", columns)
    show(summarised, tmp_path)
    text = capsys.readouterr().out
    assert "…" not in text
    assert {"51,021", "1,088,161", "123,457", "12.345", "3.456"} <= set(numbers(text))


def test_rows_without_a_metric_are_refused() -> None:
    with pytest.raises(ValueError, match="rows must hold at least one metric"):
        conversion_tables("title", [StateRow("teacher", {}, None, None, None)], 80)


def test_a_teacher_from_an_earlier_run_shows_no_time_of_its_own(make_record: MakeRecord) -> None:
    record = make_record()
    first, *others = record.stages
    assert cells(conversion_markdown("title", state_rows(record)), "teacher")[-1] != "reused"
    record = replace(record, stages=(replace(first, reused=True), *others))
    assert cells(conversion_markdown("title", state_rows(record)), "teacher")[-1] == "reused"
