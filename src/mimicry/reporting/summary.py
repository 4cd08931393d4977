"""All tasks of a model side by side, as the paper's Table 8: one row per variant, and its share of the teacher."""

import statistics
from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from mimicry.reporting.intervals import interval
from mimicry.reporting.run_record import ModelState, RunRecord
from mimicry.reporting.sheets import Sheet
from mimicry.reporting.tables import GAP, PERPLEXITIES, STATE_LABELS, number
from mimicry.reporting.variants import final_state, finished, interval_cell, labelled, one_per_seed

Runs = list[RunRecord]


@dataclass(frozen=True)
class _Column:
    """The finished runs of a task on one data set, and the score that is shown of them."""

    runs: Runs
    metric: str
    heading: str
    in_mean: bool

    def of(self, row: Sequence[RunRecord]) -> Runs:
        """Those of a row that belong here, one per seed."""
        mine = set(map(id, self.runs))
        return one_per_seed(run for run in row if id(run) in mine)


def summary_sheets(groups: Iterable[Runs], score: str | None = None) -> list[Sheet]:
    """One sheet for each regime and model with at least two tasks; none otherwise.

    A task that ran on several data sets has a column for each, and enters the mean with the one that most runs have.

    Args:
        groups: the records of each task and data set.
        score: such as `val/f1`; None takes each task's primary metric.
    """
    models = defaultdict(list)
    for group in map(finished, groups):
        # Perplexities of different texts have no mean worth telling.
        if group and group[0].score_names()[0] not in PERPLEXITIES:
            models[group[0].regime, group[0].model].append(group)
    return [
        _summary(f"{' · '.join(key)} · all tasks", _columns(tasks, score))
        for key, tasks in models.items()
        if len({group[0].task for group in tasks}) > 1
    ]


def _columns(groups: Sequence[Runs], score: str | None) -> list[_Column]:
    by_task = defaultdict(list)
    for group in groups:
        by_task[group[0].task].append(group)
    columns = []
    for task, alike in by_task.items():
        counted = max(alike, key=lambda group: (len({(run.attn, run.seed) for run in group}), _train_rows(group)))
        sizes = [_train_rows(group) for group in alike]
        for group, size in zip(alike, sizes, strict=True):
            metric = score or group[0].score_names()[0]
            about = [metric.removeprefix("val/")]
            if len(alike) > 1:
                about.append(f"{size:,} rows")
            if sizes.count(size) > 1:
                about.append(f"data {str(group[0].data.get('fingerprint'))[:6]}")
            columns.append(_Column(group, metric, f"{task} ({', '.join(about)})", group is counted))
    return columns


def _train_rows(group: Runs) -> int:
    return int(group[0].data.get("rows", {}).get("train", 0))


def _summary(title: str, columns: Sequence[_Column]) -> Sheet:
    chosen = [column for column in columns if column.in_mean]
    final = max((final_state(column.runs, column.metric) for column in chosen), key=list(STATE_LABELS).index)
    headings = [column.heading for column in columns]
    lines = [["attention", *headings, "mean", "% of teacher's mean", "% of teacher's mean, no train", "seeds"]]
    # Labels over all tasks at once: the mean of a row must not mix settings that a label per task would hide.
    rows = labelled([run for column in columns for run in column.runs], apart_from=("seed", "task"))
    for label, row in rows.items():
        cells = [_mean(run.value(final, column.metric) for run in column.of(row)) for column in columns]
        runs = [column.of(row) for column in chosen]
        metrics = [column.metric for column in chosen]
        seeds = sorted(set.intersection(*({run.seed for run in some} for some in runs)))
        means = {
            state: [_task_mean(runs, metrics, seed, state) for seed in seeds]
            for state in (final, "teacher", "no_train")
        }
        shares = [_shares(means[state], means["teacher"]) for state in (final, "no_train")]
        lines.append([label, *cells, _spread(means[final]), *map(_spread, shares), str(len(seeds))])
    about = (
        f"{STATE_LABELS[final]}; percent, mean over seeds; mean and share ± 95 % over the seeds that have every task"
    )
    apart = ", ".join(column.heading for column in columns if not column.in_mean)
    return Sheet(title, f"{about}; of each task one data set: without {apart}" if apart else about, lines)


def _task_mean(runs: Sequence[Runs], metrics: Sequence[str], seed: int, state: ModelState) -> float | None:
    values = [
        next(run.value(state, name) for run in some if run.seed == seed)
        for some, name in zip(runs, metrics, strict=True)
    ]
    known = [value for value in values if value is not None]
    return statistics.fmean(known) if len(known) == len(values) else None


def _shares(means: Sequence[float | None], teachers: Sequence[float | None]) -> list[float | None]:
    """Of row means, as the paper counts its 99.3 %, and not the mean of the tasks' shares."""
    return [
        None if mean is None or teacher is None else mean / teacher
        for mean, teacher in zip(means, teachers, strict=True)
    ]


def _mean(values: Iterable[float | None]) -> str:
    known = [value for value in values if value is not None]
    return number(statistics.fmean(known), 1, 100.0) if known else GAP


def _spread(values: Sequence[float | None]) -> str:
    known = [value for value in values if value is not None]
    if not known or len(known) < len(values):
        return GAP
    return interval_cell(interval(known), 1, 100.0)
