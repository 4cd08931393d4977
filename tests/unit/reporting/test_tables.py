import io
import math
from collections.abc import Callable
from dataclasses import replace

import pytest
from rich.console import Console

from mimicry.reporting.run_record import ModelState, RunRecord
from mimicry.reporting.tables import (
    StateRow,
    conversion_markdown,
    conversion_table,
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
    Console(file=output, width=80).print(conversion_table(title, [row("teacher", 0.8), row("recovered", 0.76)]))
    lines = output.getvalue().splitlines()
    assert lines[0].strip() == "hedgehog on movie_reviews · minilm · seed 0"
    assert any("recovered" in line and "95.0" in line for line in lines)
    assert "…" not in output.getvalue()


def test_rows_without_a_metric_are_refused() -> None:
    with pytest.raises(ValueError, match="rows must hold at least one metric"):
        conversion_table("title", [StateRow("teacher", {}, None, None, None)])


def test_a_teacher_from_an_earlier_run_shows_no_time_of_its_own(make_record: MakeRecord) -> None:
    record = make_record()
    first, *others = record.stages
    assert cells(conversion_markdown("title", state_rows(record)), "teacher")[-1] != "reused"
    record = replace(record, stages=(replace(first, reused=True), *others))
    assert cells(conversion_markdown("title", state_rows(record)), "teacher")[-1] == "reused"
