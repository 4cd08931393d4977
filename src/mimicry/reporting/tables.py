"""What one conversion did to the model, in one table: teacher, no train, distilled, recovered."""

import math
import textwrap
from collections.abc import Sequence
from dataclasses import dataclass

from rich.table import Table

from mimicry.reporting.run_record import CONVERSION, ENTROPY, KL, SCORE_PREFIX, ModelState, RunRecord, states_of

GAP = "–"
# Losses in nats, and what their exponentials are called.
PERPLEXITIES = {"val/nll_token": "PPL / token", "val/nll_word": "PPL / word"}
STATE_LABELS: dict[ModelState, str] = {
    "teacher": "teacher (softmax)",
    "no_train": "no train",
    "distilled": "distilled",
    "recovered": "recovered",
    "trained": "trained from scratch",
}


@dataclass(frozen=True)
class StateRow:
    """One state of the model.

    Args:
        state: which.
        metrics: scores as fractions, correlations or nats, the primary metric first.
        kl: mean KL divergence of its attention from the teacher's, in nats.
        entropy: mean entropy of its attention, in nats.
        wall_s: seconds it took to get here from the state before.
        reused: the state was taken from an earlier run, and cost nothing here.
    """

    state: ModelState
    metrics: dict[str, float | None]
    kl: float | None
    entropy: float | None
    wall_s: float | None
    reused: bool = False


def state_rows(record: RunRecord) -> list[StateRow]:
    """The table rows a run record holds."""
    costs = {entry.stage: entry for entry in record.stages}
    return [
        StateRow(
            state=state,
            metrics={name: record.value(state, name) for name in record.score_names()},
            kl=record.value(state, KL),
            entropy=record.value(state, ENTROPY),
            wall_s=costs[state].wall_s if state in costs else None,
            reused=state in costs and costs[state].reused,
        )
        for state in states_of(record.regime)
    ]


def conversion_title(attn: str, task: str, model: str, seed: int) -> str:
    return f"{attn} on {task} · {model} · seed {seed}"


def conversion_tables(title: str, rows: Sequence[StateRow], width: int) -> list[Table]:
    """The table for a terminal of so many columns; a state without a row shows gaps.

    Headers break between words where there is no room for them. Numbers never do: those that do not fit stand in
    further tables, under the same states.
    """
    label, *columns = map(list, zip(*conversion_cells(rows), strict=True))
    if _width([label, *columns]) > width:
        columns = [[_broken(name, cells), *cells] for name, *cells in columns]
    parts: list[list[list[str]]] = [[label]]
    for column in columns:
        if len(parts[-1]) > 1 and _width([*parts[-1], column]) > width:
            parts.append([label])
        parts[-1].append(column)
    return [_terminal_table(part, title if part is parts[0] else None) for part in parts]


def _terminal_table(columns: Sequence[Sequence[str]], title: str | None) -> Table:
    table = Table(title=title, title_justify="left", title_style="bold")
    for index, (name, *_) in enumerate(columns):
        table.add_column(name, justify="left" if index == 0 else "right", no_wrap=True)
    for cells in list(zip(*columns, strict=True))[1:]:
        table.add_row(*cells)
    return table


def _broken(name: str, cells: Sequence[str]) -> str:
    """The name in lines that are no wider than the cells, but for longer words."""
    return textwrap.fill(name, max(map(len, cells)), break_long_words=False, break_on_hyphens=False)


def _width(columns: Sequence[Sequence[str]]) -> int:
    # A blank on both sides of a column, and a line after each and before the first.
    return 1 + sum(3 + max(len(line) for cell in cells for line in cell.split("\n")) for cells in columns)


def conversion_markdown(title: str, rows: Sequence[StateRow]) -> str:
    """The same table as Markdown."""
    return f"**{title}**\n\n{markdown_table(conversion_cells(rows))}"


def conversion_cells(rows: Sequence[StateRow]) -> list[list[str]]:
    """The same table as its cells, the header first."""
    by_state = {row.state: row for row in rows}
    names = list(dict.fromkeys(name for row in rows for name in row.metrics))
    if not names:
        raise ValueError(f"rows must hold at least one metric, got {rows!r}")
    primary = names[0]
    teacher = by_state["teacher"].metrics.get(primary) if "teacher" in by_state else None
    headings = [metric_heading(name) for name in names]
    from_scratch = "trained" in by_state
    lines = [["attention", headings[0], "% of teacher", *headings[1:], "KL (nats)", "entropy (nats)", "time (s)"]]
    for state in states_of("scratch") if from_scratch else CONVERSION:
        row = by_state.get(state, StateRow(state, {}, None, None, None))
        scores = [number(shown(name, row.metrics.get(name)), decimals(name)) for name in names]
        kept = number(fraction_of_teacher(primary, row.metrics.get(primary), teacher), 1, scale=100.0)
        costs = [number(row.kl, 3), number(row.entropy, 3), "reused" if row.reused else number(row.wall_s, 1)]
        lines.append([STATE_LABELS[state], scores[0], kept, *scores[1:], *costs])
    if from_scratch:
        # There is no teacher to compare with.
        columns = [index for index, name in enumerate(lines[0]) if name not in ("% of teacher", "KL (nats)")]
        lines = [[cells[index] for index in columns] for cells in lines]
    return lines


def markdown_table(lines: Sequence[Sequence[str]]) -> str:
    """The first line is the header; the first column is text, the others are numbers."""
    header, *body = lines
    rule = [":---", *["---:"] * (len(header) - 1)]
    return "\n".join(f"| {' | '.join(cells)} |" for cells in (header, rule, *body)) + "\n"


def metric_heading(name: str) -> str:
    return PERPLEXITIES.get(name) or f"{name.removeprefix(SCORE_PREFIX)} (%)"


def shown(name: str, value: float | None) -> float | None:
    """A score as tables show it: in percent, or a mean negative log-likelihood as perplexity."""
    if value is None:
        return None
    return math.exp(value) if name in PERPLEXITIES else 100.0 * value


def decimals(name: str) -> int:
    """How many a score is shown with."""
    return 2 if name in PERPLEXITIES else 1


def number(value: float | None, decimals: int, scale: float = 1.0) -> str:
    """`scale` times the value; a gap for what was not measured or is not finite, never a zero."""
    if value is None or not math.isfinite(value):
        return GAP
    # Of large perplexities nobody reads the decimals.
    large = decimals > 0 and abs(scale * value) >= 1000
    return f"{scale * value:,.0f}" if large else f"{scale * value:.{decimals}f}"


def fraction_of_teacher(name: str, value: float | None, teacher: float | None) -> float | None:
    """Share of the teacher's score that is kept; of perplexities, which should be low, the teacher's by the student's.

    None without both values, and for a teacher at or below zero, of which no share can be kept.
    """
    if value is None or teacher is None:
        return None
    if name in PERPLEXITIES:
        return math.exp(teacher - value)
    return value / teacher if teacher > 0 else None
