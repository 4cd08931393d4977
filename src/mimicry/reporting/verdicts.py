"""Our runs held against what the paper reports: reproduced, differs and by how much, or not run at this scale."""

import statistics
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Literal

from mimicry.reporting.intervals import Interval, interval
from mimicry.reporting.run_record import ENTROPY, KL, RunRecord
from mimicry.reporting.tables import PERPLEXITIES, fraction_of_teacher, shown
from mimicry.reporting.targets import Target
from mimicry.reporting.variants import finished, variants

MONOTONICITY = "analysis/monotonicity"
Status = Literal["reproduced", "differs", "undecided", "not run at this scale"]


@dataclass(frozen=True)
class Verdict:
    """What our runs say of one target.

    `ours` and `other` are in the units of tables, `other` of the attention that a target says is below; `difference` is
    ours minus the published value, or minus `other`, seed by seed. `undecided` is an ordering whose difference lies
    within its own interval over seeds. `about` says in one line what the verdict rests on.
    """

    target: Target
    status: Status
    about: str
    regime: str | None = None
    model: str | None = None
    tasks: tuple[str, ...] = ()
    ours: Interval | None = None
    other: Interval | None = None
    difference: Interval | None = None


def judge(target: Target, records: Sequence[RunRecord]) -> tuple[Verdict, ...]:
    """One verdict for each regime and model among the records that the target speaks of.

    Over several tasks it is held against the mean of the tasks, seed by seed, and a share of the teacher is the share
    of these means, as the paper's Table 8 counts it.

    Args:
        target: of one experiment.
        records: of the same experiment; runs that failed are left out.
    """
    cells: dict[tuple[str, str], list[RunRecord]] = {}
    for record in finished(records):
        if _concerns(target, record):
            cells.setdefault((record.regime, target.model or record.model), []).append(record)
    if not cells:
        wanted = [name for name in (target.regime, target.model, target.task, target.maps_from) if name]
        return (_not_run(target, f"no finished run of {', '.join(wanted) or 'this experiment'}"),)
    return tuple(_judge_cell(target, *key, runs) for key, runs in sorted(cells.items()))


def measured(record: RunRecord, quantity: str, stage: str) -> float | None:
    """A target's quantity of one run, in the units of tables; None where it was not measured.

    `percent_of_teacher` is of the primary metric. Monotonicity, kept per head, is the mean of the heads.
    """
    primary = next(iter(record.score_names()), None)
    if quantity in ("kl", "entropy"):
        return record.value(stage, KL if quantity == "kl" else ENTROPY)
    if quantity == "monotonicity":
        grid = next((grid for grid in record.heads if (grid.name, grid.stage) == (MONOTONICITY, stage)), None)
        values = [value for row in grid.values for value in row if value is not None] if grid else []
        return statistics.fmean(values) if values else record.value(stage, MONOTONICITY)
    if primary is None:
        return None
    if quantity == "percent_of_teacher":
        share = fraction_of_teacher(primary, record.value(stage, primary), record.value("teacher", primary))
        return None if share is None else 100.0 * share
    if (quantity == "perplexity") != (primary in PERPLEXITIES):
        return None
    return shown(primary, record.value(stage, primary))


def _concerns(target: Target, record: RunRecord) -> bool:
    return (
        target.regime in (None, record.regime)
        and target.maps_from in (None, record.maps_from)
        and target.task in (None, record.task)
        and target.model in (None, record.model, (record.choices or {}).get("model"))
    )


def _judge_cell(target: Target, regime: str, model: str, records: Sequence[RunRecord]) -> Verdict:
    # Donors differ by task, and so does the record's model; the target says that they are one.
    rows = variants(records, apart_from=("seed", "task", *(["model"] if target.model else [])))
    names = [name for name in (target.attn, target.above) if name]
    chosen = [_row(rows, name) for name in names]
    tasks = sorted(set.intersection(*({run.task for run in row} for row in chosen)))
    values = [_by_seed(target, row, tasks) for row in chosen]
    place = {"regime": regime, "model": model, "tasks": tuple(tasks)}
    for name, row, known in zip(names, chosen, values, strict=True):
        if not row:
            several = any(runs[0].attn == name for runs in rows.values())
            about = f"runs of {name} differ in more than the seed" if several else f"no finished run of {name}"
            return _not_run(target, about, **place)
        if not known:
            return _not_run(target, f"{target.quantity} was not measured for {name}, {target.stage}", **place)
    if target.value is not None:
        ours = interval(list(values[0].values()))
        off = ours.mean - target.value
        status: Status = "reproduced" if abs(off) <= target.tolerance + 1e-9 else "differs"
        return Verdict(target, status, _seeds(ours), **place, ours=ours, difference=Interval(off, ours.half, ours.n))
    seeds = sorted(set(values[0]) & set(values[1]))
    if not seeds:
        return _not_run(target, f"{' and '.join(names)} share no seed", **place)
    ours, other = (interval([known[seed] for seed in seeds]) for known in values)
    gap = interval([values[0][seed] - values[1][seed] for seed in seeds])
    return Verdict(target, _ordering(gap), _seeds(gap), **place, ours=ours, other=other, difference=gap)


def _ordering(gap: Interval) -> Status:
    """Of a claim that the difference is above zero."""
    if gap.half is not None and abs(gap.mean) <= gap.half:
        return "undecided"
    return "reproduced" if gap.mean > 0 else "differs"


def _row(rows: dict[str, list[RunRecord]], name: str) -> list[RunRecord]:
    """The runs of the row called `name`, or of the only one of that attention."""
    same = [runs for runs in rows.values() if runs[0].attn == name]
    return rows.get(name) or (same[0] if len(same) == 1 else [])


def _by_seed(target: Target, runs: Sequence[RunRecord], tasks: Sequence[str]) -> dict[int, float]:
    """The quantity over all tasks, for the seeds that have it on every task."""
    values = {}
    for seed in {run.seed for run in runs}:
        by_task = {run.task: run for run in runs if run.seed == seed and run.task in tasks}
        value = _over_tasks(target, list(by_task.values())) if by_task and len(by_task) == len(tasks) else None
        if value is not None:
            values[seed] = value
    return values


def _over_tasks(target: Target, runs: Sequence[RunRecord]) -> float | None:
    if target.quantity == "percent_of_teacher" and len(runs) > 1:
        ours, teacher = (_mean(measured(run, "score", stage) for run in runs) for stage in (target.stage, "teacher"))
        return None if ours is None or not teacher else 100.0 * ours / teacher
    return _mean(measured(run, target.quantity, target.stage) for run in runs)


def _mean(values: Iterable[float | None]) -> float | None:
    known = list(values)
    return None if None in known else statistics.fmean(known)  # type: ignore[arg-type]


def _seeds(of: Interval) -> str:
    return "a single seed: no interval" if of.n == 1 else f"{of.n} seeds"


def _not_run(target: Target, about: str, **place: object) -> Verdict:
    return Verdict(target, "not run at this scale", about, **place)  # type: ignore[arg-type]
