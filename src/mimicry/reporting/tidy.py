"""Every mean of a set of records as one line of CSV, for programs."""

import csv
import io
from collections.abc import Iterator, Sequence

from mimicry.reporting.comparison import group_records
from mimicry.reporting.intervals import interval
from mimicry.reporting.run_record import ENTROPY, KL, RunRecord, states_of
from mimicry.reporting.tables import PERPLEXITIES, fraction_of_teacher, shown
from mimicry.reporting.variants import finished, variants

COLUMNS = ("regime", "model", "task", "data", "attention", "state", "quantity", "unit", "seeds", "mean", "low", "high")


def tidy_csv(records: Sequence[RunRecord]) -> str:
    """A line for each variant, state and quantity that any of its finished runs has.

    `seeds` counts those with the value, `low` and `high` bound its 95 % interval and are empty for a single run.
    """
    file = io.StringIO()
    writer = csv.writer(file, lineterminator="\n")
    writer.writerow(COLUMNS)
    for (regime, model, task, _), group in group_records(records).items():
        for label, runs in variants(finished(group)).items():
            data = str(runs[0].data.get("fingerprint", ""))[:12]
            for state, quantity, unit, values in _quantities(runs):
                of = interval(values)
                bounds = ["", ""] if of.half is None else [of.mean - of.half, of.mean + of.half]
                numbers = [number if number == "" else f"{number:.6g}" for number in (of.mean, *bounds)]
                writer.writerow([regime, model, task, data, label, state, quantity, unit, of.n, *numbers])
    return file.getvalue()


def _quantities(runs: Sequence[RunRecord]) -> Iterator[tuple[str, str, str, list[float]]]:
    names = list(dict.fromkeys(name for run in runs for name in run.score_names()))
    for state in states_of(runs[0].regime):
        for name in names:
            unit = "perplexity" if name in PERPLEXITIES else "%"
            yield from _known(state, name, unit, [shown(name, run.value(state, name)) for run in runs])
        shares = [
            fraction_of_teacher(name, run.value(state, name), run.value("teacher", name))
            for run in runs
            for name in run.score_names()[:1]
        ]
        yield from _known(state, "of_teacher", "%", [None if share is None else 100.0 * share for share in shares])
        for name in (KL, ENTROPY):
            yield from _known(state, name, "nats", [run.value(state, name) for run in runs])
        seconds = [entry.wall_s for run in runs for entry in run.stages if entry.stage == state and entry.steps]
        yield from _known(state, "training", "s", seconds)


def _known(
    state: str, quantity: str, unit: str, values: Sequence[float | None]
) -> Iterator[tuple[str, str, str, list[float]]]:
    known = [value for value in values if value is not None]
    if known:
        yield state, quantity, unit, known
