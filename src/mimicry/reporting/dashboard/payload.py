"""What the dashboard shows, as JSON data made of records, verdicts and benchmark tables."""

import csv
import os
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import yaml

from mimicry.reporting.collation import Collection
from mimicry.reporting.comparison import data_line, group_records
from mimicry.reporting.dashboard.commands import command
from mimicry.reporting.dashboard.maps import read_maps
from mimicry.reporting.intervals import student_t
from mimicry.reporting.published import HEADER, verdict_cells
from mimicry.reporting.run_record import COLLECTION_NAME, ENTROPY, KL, RunRecord, states_of
from mimicry.reporting.schema import to_plain
from mimicry.reporting.tables import (
    PERPLEXITIES,
    STATE_LABELS,
    decimals,
    fraction_of_teacher,
    metric_heading,
    shown,
)
from mimicry.reporting.variants import final_state, finished, labelled, one_per_seed

LOCAL = "local runs"
# A benchmark's table is known by these columns.
SPEED_COLUMNS = ("mode", "direction", "tokens", "contender", "median_s", "extra_bytes")


def payload(
    collections: Sequence[Collection],
    single: dict[Path, RunRecord],
    roots: Sequence[Path],
    experiments: Path,
    page: Path,
) -> dict[str, Any]:
    """All data of the page.

    Args:
        collections: records kept together, with their verdicts; without records where an experiment did not run.
        single: records that stand alone, by their file.
        roots: folders whose benchmark tables (`table.csv`) are shown.
        experiments: folder with the files of the experiments.
        page: file of the page, to which links are relative.
    """
    groups, runs = [], []
    for entry in collections:
        places = dict.fromkeys(map(id, entry.records), entry.folder / COLLECTION_NAME)
        _add(groups, runs, entry.name, entry.records, places, experiments, page)
    _add(groups, runs, LOCAL, list(single.values()), {id(r): path for path, r in single.items()}, experiments, page)
    most = max([2, *(len(entry.records) for entry in collections), len(single)])
    return {
        "states": STATE_LABELS,
        "student_t": [student_t(degrees) for degrees in range(1, most)],
        "groups": groups,
        "runs": runs,
        "verdict_header": HEADER,
        "verdicts": [
            {"experiment": entry.name, "status": verdict.status, "cells": verdict_cells(verdict)}
            for entry in collections
            for verdict in entry.verdicts
        ],
        "speed": _speed(roots),
    }


def _add(
    groups: list[dict[str, Any]],
    runs: list[dict[str, Any]],
    source: str,
    records: Sequence[RunRecord],
    places: dict[int, Path],
    experiments: Path,
    page: Path,
) -> None:
    """Adds the tables of one source and the runs of each."""
    for (regime, model, task, _), group in group_records(records).items():
        done = finished(group)
        primary = next((name for record in done for name in record.score_names()), None)
        number = len(groups)
        groups.append(
            {
                "source": source,
                "regime": regime,
                "model": model,
                "task": task,
                "metric": metric_heading(primary) if primary else "score",
                "decimals": decimals(primary) if primary else 1,
                "lower_is_better": primary in PERPLEXITIES,
                "final": final_state(group, primary) if primary else states_of(regime)[-1],
                "fingerprint": next((str(r.data.get("fingerprint"))[:6] for r in done), ""),
                "data": next((data_line(record.data) for record in done), "No run finished."),
            }
        )
        labels = labelled(group)
        for label, rows in labels.items():
            usual = labels.get(rows[0].attn) if label != rows[0].attn else None
            counted = set(map(id, one_per_seed(rows)))
            for record in rows:
                place = places[id(record)]
                experiment = None if source == LOCAL else experiments / f"{source}.yaml"
                text, is_own = command(record, experiment, usual[0] if usual else None)
                runs.append(
                    {
                        **_run(record, primary),
                        "id": f"{record.fingerprint}-{len(runs)}",
                        "group": number,
                        "label": label,
                        "counted": id(record) in counted,
                        "href": Path(os.path.relpath(place, page.parent)).as_posix(),
                        "command": text,
                        "own_command": is_own,
                        "maps": read_maps(record, place),
                    }
                )


def _run(record: RunRecord, primary: str | None) -> dict[str, Any]:
    machine = [record.hardware.get("gpu"), record.hardware.get("cpu")]
    return {
        "attn": record.attn,
        "seed": record.seed,
        "status": record.status,
        "reason": record.reason,
        "started_at": record.started_at,
        "commit": record.commit,
        "dirty": record.dirty,
        "wall_s": record.wall_s,
        "analysis_s": record.analysis_s,
        "memory_bytes": record.peak_memory_bytes,
        "machine": ", ".join(str(part) for part in machine if part),
        "versions": record.versions,
        "states": {state: _state(record, state, primary) for state in states_of(record.regime)},
        "trials": [to_plain(trial) for trial in record.trials],
        "heads": [to_plain(grid) for grid in record.heads],
        "curves": [to_plain(curve) for curve in record.curves],
        "config": yaml.safe_dump(record.config, sort_keys=False, allow_unicode=True),
    }


def _state(record: RunRecord, state: Any, primary: str | None) -> dict[str, Any]:
    if primary is None:
        return {}
    share = fraction_of_teacher(primary, record.value(state, primary), record.value("teacher", primary))
    cost = next((entry for entry in record.stages if entry.stage == state), None)
    return {
        "score": shown(primary, record.value(state, primary)),
        "others": {
            metric_heading(name): shown(name, record.value(state, name))
            for name in record.score_names()
            if name != primary
        },
        "kept": None if share is None else 100.0 * share,
        "kl": record.value(state, KL),
        "entropy": record.value(state, ENTROPY),
        "wall_s": cost.wall_s if cost else None,
        "steps": cost.steps if cost else None,
        "tokens_per_s": cost.tokens_per_s if cost else None,
        "reused": bool(cost and cost.reused),
    }


def _speed(roots: Iterable[Path]) -> list[dict[str, Any]]:
    """The benchmark tables below the roots; numbers as numbers, gaps as None."""
    found = []
    for path in sorted({path for root in roots for path in root.rglob("table.csv")}):
        with path.open(encoding="utf-8", newline="") as file:
            reader = csv.DictReader(file)
            if not set(SPEED_COLUMNS) <= set(reader.fieldnames or ()):
                continue
            rows = [{name: row[name] for name in SPEED_COLUMNS} for row in reader]
        about = path.with_suffix(".md")
        title = about.read_text(encoding="utf-8").splitlines()[0].lstrip("# ") if about.is_file() else ""
        for row in rows:
            for name in ("tokens", "median_s", "extra_bytes"):
                row[name] = float(row[name]) if row[name] else None
        found.append({"name": path.parent.name, "about": title, "rows": rows})
    return found
