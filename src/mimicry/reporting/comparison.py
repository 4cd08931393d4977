"""Attention variants side by side, from run records on disk."""

import json
import logging
import statistics
from collections import defaultdict
from collections.abc import Callable, Sequence
from pathlib import Path

from mimicry.reporting.run_record import (
    COLLECTION_NAME,
    ENTROPY,
    KL,
    RECORD_NAME,
    STATES,
    ModelState,
    RunRecord,
    config_fingerprint,
    parse_record,
)
from mimicry.reporting.schema import to_plain
from mimicry.reporting.tables import GAP, STATE_LABELS, fraction_of_teacher, markdown_table, metric_heading, number

_log = logging.getLogger(__name__)


def read_records(root: Path) -> list[RunRecord]:
    """Every readable record below `root`, single or collected, sorted by path; a broken one is warned about."""
    records = []
    for path in sorted([*root.rglob(RECORD_NAME), *root.rglob(COLLECTION_NAME)]):
        lines = path.read_bytes().splitlines() if path.name == COLLECTION_NAME else [path.read_bytes()]
        for position, line in enumerate(lines, 1):
            where = f"{path}:{position}" if path.name == COLLECTION_NAME else str(path)
            try:
                records.append(parse_record(line, where))
            except ValueError as error:
                _log.warning("ignoring a broken run record: %s", error)
    return records


def save_collection(records: Sequence[RunRecord], folder: Path, score: str | None = None) -> None:
    """Writes records and their tables into one folder to commit: `records.jsonl` and `table.md`."""
    folder.mkdir(parents=True, exist_ok=True)
    lines = [json.dumps(to_plain(record), sort_keys=True, ensure_ascii=False) for record in records]
    (folder / COLLECTION_NAME).write_text("\n".join(lines) + "\n", encoding="utf-8")
    (folder / "table.md").write_text(comparison_tables(records, score), encoding="utf-8")


def comparison_tables(records: Sequence[RunRecord], score: str | None = None) -> str:
    """One Markdown table per regime, model and task."""
    return "\n".join(comparison_markdown(group, score) for group in group_records(records).values())


def group_records(records: Sequence[RunRecord]) -> dict[tuple[str, str, str], list[RunRecord]]:
    """Records that may share a table, by (regime, model, task)."""
    groups = defaultdict(list)
    for record in records:
        groups[record.regime, record.model, record.task].append(record)
    return dict(sorted(groups.items()))


def comparison_markdown(records: Sequence[RunRecord], score: str | None = None) -> str:
    """One row per attention variant, mean ± sample standard deviation over seeds; failed runs leave gaps.

    Runs of one variant whose configs differ in more than the seed get rows of their own, told apart by a fingerprint.

    Args:
        records: all of one regime, model and task, at least one.
        score: such as `val/f1`; None takes each task's primary metric.

    Raises:
        ValueError: when they are not.
    """
    groups = group_records(records)
    if len(groups) != 1:
        raise ValueError(f"records must share one regime, model and task, got {sorted(groups)}")
    ((regime, model, task),) = groups
    # Empty when no run finished: nothing is measured under that name, so every cell is a gap.
    primary = score or next((name for record in _finished(records) for name in record.score_names()), "")
    final = _final_state(records, primary)
    label = STATE_LABELS[final]
    heading = metric_heading(primary) if primary else "score (%)"
    header = ["attention", "seeds", *STATE_LABELS.values(), f"% of teacher, {label}", f"KL (nats), {label}"]
    lines = [[*header, "entropy (nats), teacher", f"entropy (nats), {label}"]]
    for name, runs in _variants(records).items():
        done = _finished(runs)
        seeds = str(len(done)) if len(done) == len(runs) else f"{len(done)} of {len(runs)}"
        lines.append([name, seeds, *_measured_cells(done, primary, final)])
    title = f"**{regime} · {model} · {task}** · {heading}, mean ± standard deviation over seeds"
    return f"{title}\n\n{markdown_table(lines)}"


def _finished(records: Sequence[RunRecord]) -> list[RunRecord]:
    return [record for record in records if record.status == "finished"]


def _final_state(records: Sequence[RunRecord], primary: str) -> ModelState:
    """The last state any run reached: one for the whole table, so that its rows can be compared."""
    for state in reversed(STATES[1:]):
        if any(record.value(state, primary) is not None for record in _finished(records)):
            return state
    return STATES[-1]


def _variants(records: Sequence[RunRecord]) -> dict[str, list[RunRecord]]:
    """Records by row label. A mean over runs that differ in more than the seed would say nothing about seeds."""
    configs: dict[str, dict[str, list[RunRecord]]] = defaultdict(lambda: defaultdict(list))
    for record in records:
        seedless = {key: value for key, value in record.config.items() if key != "seed"}
        configs[record.attn][config_fingerprint(seedless)].append(record)
    return {
        attn if len(by_config) == 1 else f"{attn} ({fingerprint[:6]})": runs
        for attn, by_config in sorted(configs.items())
        for fingerprint, runs in sorted(by_config.items())
    }


def _measured_cells(runs: Sequence[RunRecord], primary: str, final: ModelState) -> list[str]:
    def kept(run: RunRecord) -> float | None:
        return fraction_of_teacher(run.value(final, primary), run.value("teacher", primary))

    scores = [_mean_and_std(runs, lambda run, at=state: run.value(at, primary), 1, 100.0) for state in STATES]
    return [
        *scores,
        _mean_and_std(runs, kept, 1, 100.0),
        _mean_and_std(runs, lambda run: run.value(final, KL), 3),
        _mean_and_std(runs, lambda run: run.value("teacher", ENTROPY), 3),
        _mean_and_std(runs, lambda run: run.value(final, ENTROPY), 3),
    ]


def _mean_and_std(
    runs: Sequence[RunRecord], measure: Callable[[RunRecord], float | None], decimals: int, scale: float = 1.0
) -> str:
    """Over the runs that have the value; their number is named when it is not all of them."""
    values = [value for value in map(measure, runs) if value is not None]
    if not values:
        return GAP
    cell = number(statistics.fmean(values), decimals, scale)
    if len(values) > 1:
        cell += f" ± {number(statistics.stdev(values), decimals, scale)}"
    return cell if len(values) == len(runs) else f"{cell} (n={len(values)})"
