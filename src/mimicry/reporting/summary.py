"""All tasks of a model side by side, as the paper's Table 8: one row per variant, and its share of the teacher."""

import statistics
from collections import defaultdict
from collections.abc import Iterable, Sequence

from mimicry.reporting.intervals import interval
from mimicry.reporting.run_record import ModelState, RunRecord
from mimicry.reporting.sheets import Sheet
from mimicry.reporting.tables import GAP, PERPLEXITIES, STATE_LABELS, number
from mimicry.reporting.variants import final_state, finished, interval_cell, variants

Runs = list[RunRecord]


def summary_sheets(groups: Iterable[Runs], score: str | None = None) -> list[Sheet]:
    """One sheet for each regime and model with at least two tasks; none otherwise.

    Args:
        groups: the records of each task.
        score: such as `val/f1`; None takes each task's primary metric.
    """
    models = defaultdict(list)
    for group in map(finished, groups):
        # Perplexities of different texts have no mean worth telling.
        if group and group[0].score_names()[0] not in PERPLEXITIES:
            models[group[0].regime, group[0].model].append(group)
    return [_summary(f"{' · '.join(key)} · all tasks", tasks, score) for key, tasks in models.items() if len(tasks) > 1]


def _summary(title: str, tasks: Sequence[Runs], score: str | None) -> Sheet:
    metrics = [score or group[0].score_names()[0] for group in tasks]
    final = max(
        (final_state(group, name) for group, name in zip(tasks, metrics, strict=True)), key=list(STATE_LABELS).index
    )
    names = [f"{group[0].task} ({name.removeprefix('val/')})" for group, name in zip(tasks, metrics, strict=True)]
    lines = [["attention", *names, "mean", "% of teacher's mean", "% of teacher's mean, no train", "seeds"]]
    # Labels over all tasks at once: the mean of a row must not mix settings that a label per task would hide.
    rows = variants([run for group in tasks for run in group], apart_from=("seed", "task"))
    for label, all_runs in rows.items():
        runs = [[run for run in all_runs if run.task == group[0].task] for group in tasks]
        seeds = sorted(set.intersection(*({run.seed for run in some} for some in runs)))
        cells = [_mean(run.value(final, name) for run in some) for some, name in zip(runs, metrics, strict=True)]
        means = {
            state: [_task_mean(runs, metrics, seed, state) for seed in seeds]
            for state in (final, "teacher", "no_train")
        }
        shares = [_shares(means[state], means["teacher"]) for state in (final, "no_train")]
        lines.append([label, *cells, _spread(means[final]), *map(_spread, shares), str(len(seeds))])
    about = (
        f"{STATE_LABELS[final]}; percent, mean over seeds; mean and share ± 95 % over the seeds that have every task"
    )
    return Sheet(title, about, lines)


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
