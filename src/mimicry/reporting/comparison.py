"""Attention variants side by side, from run records on disk."""

import json
import logging
from collections import defaultdict
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from mimicry.reporting.portable import portable
from mimicry.reporting.run_record import (
    COLLECTION_NAME,
    CONVERSION,
    ENTROPY,
    KL,
    RECORD_NAME,
    ModelState,
    RunRecord,
    parse_record,
    states_of,
)
from mimicry.reporting.schema import to_plain
from mimicry.reporting.settings import settings_sheets
from mimicry.reporting.sheets import Sheet
from mimicry.reporting.summary import summary_sheets
from mimicry.reporting.tables import STATE_LABELS, decimals, fraction_of_teacher, metric_heading, shown
from mimicry.reporting.variants import final_state, finished, mean_and_interval, variants

_log = logging.getLogger(__name__)


def read_records(root: Path) -> list[RunRecord]:
    """Every readable record below `root`, single or collected, sorted by path; a broken one is warned about."""
    return [
        record
        for path in sorted([*root.rglob(RECORD_NAME), *root.rglob(COLLECTION_NAME)])
        for record in records_in(path)
    ]


def read_single_records(root: Path) -> dict[Path, RunRecord]:
    """The readable records below `root` that stand alone, by their path."""
    return {path: record for path in sorted(root.rglob(RECORD_NAME)) for record in records_in(path)}


def records_in(path: Path) -> list[RunRecord]:
    """The readable ones of a single record's file, or of a collection's."""
    collected = path.name == COLLECTION_NAME
    records = []
    for position, line in enumerate(path.read_bytes().splitlines() if collected else [path.read_bytes()], 1):
        try:
            records.append(parse_record(line, f"{path}:{position}" if collected else str(path)))
        except ValueError as error:
            _log.warning("ignoring a broken run record: %s", error)
    return records


def save_collection(records: Iterable[RunRecord], folder: Path) -> None:
    """Writes records into one file of `folder`, one a line: what is committed, without paths of this machine."""
    folder.mkdir(parents=True, exist_ok=True)
    lines = [json.dumps(to_plain(portable(record)), sort_keys=True, ensure_ascii=False) for record in records]
    (folder / COLLECTION_NAME).write_text("\n".join(lines) + "\n", encoding="utf-8")


def all_sheets(records: Sequence[RunRecord], score: str | None = None) -> list[Sheet]:
    """For each regime, model, task and data one sheet of results and one of settings; then all tasks."""
    groups = list(group_records(records).values())
    results = [sheet for group in groups for sheet in (comparison_sheet(group, score), *settings_sheets(group))]
    return [*results, *summary_sheets(groups, score)]


def group_records(records: Sequence[RunRecord]) -> dict[tuple[str, ...], list[RunRecord]]:
    """Records that may share a table, by (regime, model, task, what they were trained and scored on)."""
    groups, known = defaultdict(list), defaultdict(set)
    for record in records:
        if record.data:
            known[_asked_for(record)].add(_data_key(record))
    for record in records:
        # A run that failed early does not know its data: it stands with the runs that asked for the same, if these are
        # of one table, and else with none.
        keys = {_data_key(record)} if record.data else known[_asked_for(record)]
        groups[record.regime, record.model, record.task, min(keys) if len(keys) == 1 else ""].append(record)
    return dict(sorted(groups.items()))


def _asked_for(record: RunRecord) -> tuple[str, ...]:
    return record.regime, record.model, record.task, json.dumps(record.config.get("task"), sort_keys=True)


def _data_key(record: RunRecord) -> str:
    # Maps may come from another corpus: that is a difference between rows of a table, not between tables.
    return json.dumps([record.data.get("fingerprint"), record.data.get("rows")], sort_keys=True)


def comparison_sheet(records: Sequence[RunRecord], score: str | None = None) -> Sheet:
    """One row per attention variant, mean ± 95 % interval over seeds; failed runs leave gaps.

    Args:
        records: all of one regime, model, task and data, at least one.
        score: such as `val/f1`; None takes each task's primary metric.

    Raises:
        ValueError: when they are not.
    """
    groups = group_records(records)
    if len(groups) != 1:
        raise ValueError(f"records must share one regime, model, task and data, got {sorted(groups)}")
    ((regime, model, task, _),) = groups
    # Empty when no run finished: nothing is measured under that name, so every cell is a gap.
    names = next((record.score_names() for record in finished(records)), [])
    primary = score or next(iter(names), "")
    final = final_state(records, primary)
    label = STATE_LABELS[final]
    heading = metric_heading(primary) if primary else "score (%)"
    further = [name for name in names if name != primary]
    headings = [f"{metric_heading(name)}, {label}" for name in further]
    states = [STATE_LABELS[state] for state in states_of(regime)]
    header = ["attention", "seeds", *states, *headings, f"entropy (nats), {label}"]
    if "teacher" in states_of(regime):
        kept, imitated = f"% of teacher, {label}", f"KL (nats), {label}"
        header = ["attention", "seeds", *states, kept, *headings, imitated, "entropy (nats), teacher", header[-1]]
    lines = [header]
    for name, runs in variants(records).items():
        done = finished(runs)
        seeds = str(len(done)) if len(done) == len(runs) else f"{len(done)} of {len(runs)}"
        lines.append([name, seeds, *_measured_cells(done, primary, further, final)])
    about = f"{heading}, mean ± 95 % interval over seeds"
    # Rows whose maps saw another corpus say so themselves; the line is for what all have in common.
    usual_first = sorted(finished(records), key=lambda record: record.data.get("maps_corpus") is not None)
    data = next((data_line(record.data) for record in usual_first), "Data: no run finished.")
    return Sheet(f"{regime} · {model} · {task}", about, lines, data)


def _measured_cells(runs: Sequence[RunRecord], primary: str, further: Sequence[str], final: ModelState) -> list[str]:
    def kept(run: RunRecord) -> float | None:
        return fraction_of_teacher(primary, run.value(final, primary), run.value("teacher", primary))

    def score(name: str, state: ModelState) -> str:
        return mean_and_interval(runs, lambda run: shown(name, run.value(state, name)), decimals(name))

    entropy = mean_and_interval(runs, lambda run: run.value(final, ENTROPY), 3)
    others = [score(name, final) for name in further]
    if final == "trained":
        return [score(primary, final), *others, entropy]
    return [
        *(score(primary, state) for state in CONVERSION),
        mean_and_interval(runs, kept, 1, 100.0),
        *others,
        mean_and_interval(runs, lambda run: run.value(final, KL), 3),
        mean_and_interval(runs, lambda run: run.value("teacher", ENTROPY), 3),
        entropy,
    ]


def data_line(data: dict[str, Any]) -> str:
    """What the runs of a table trained and scored on, and what of the task they lack."""
    rows, available, sources = data.get("rows", {}), data.get("available", {}), data.get("sources", {})
    parts = []
    # JSON keeps no order.
    order = sorted(rows, key=lambda split: (split != "train", split != "held_out", split))
    for split in order:
        count = rows[split]
        if not count:
            continue
        held_out = split == "held_out"
        total = None if held_out else available.get(split)
        # Documents are counted before they are cut into blocks, of which there are more.
        of = "" if total is None or total <= count else f" of {total:,}"
        where = "training rows, to choose settings on" if held_out else sources.get(split, "")
        parts.append(f"{split.replace('_', ' ')} {count:,}{of} ({where})")
    corpus = data.get("maps_corpus")
    if corpus:
        parts.append(f"maps distilled on {corpus['rows']:,} rows of {corpus['name']} ({corpus['source']})")
    missing = "".join(f"; missing: {part}" for part in data.get("missing", ()))
    return f"Data: {', '.join(parts)}; fingerprint {str(data.get('fingerprint'))[:12]}{missing}."
