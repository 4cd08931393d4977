"""Brings the runs that an experiment has launched here into its folder of collected records."""

from collections import defaultdict
from collections.abc import Mapping, Sequence
from pathlib import Path

from mimicry.reporting.asked import asked_by
from mimicry.reporting.comparison import read_records, save_collection
from mimicry.reporting.dashboard.maps import collect_maps
from mimicry.reporting.run_record import COLLECTION_NAME, RunRecord
from mimicry.reporting.variants import latest

# Where runs lie below a results folder, each with its own record.
RUNS = "runs"


def gather(root: Path, single: Mapping[Path, RunRecord]) -> dict[Path, int]:
    """Adds to each `<root>/<experiment>` the runs below `<root>/runs` that this experiment has asked for.

    Smoke runs, whose numbers mean nothing, stay out. Of two records of one configuration the finished one counts, and
    of two finished ones the later.

    Args:
        root: results folder.
        single: records that stand alone, by their file.

    Returns:
        The folders that have changed, and how many of their records are new.
    """
    asked: dict[str, dict[Path, RunRecord]] = defaultdict(dict)
    for path, record in single.items():
        if path.is_relative_to(root / RUNS):
            for experiment in asked_by(path.parent, record):
                asked[experiment][path] = record
    changed = {}
    for experiment, runs in asked.items():
        folder = root / experiment
        kept = read_records(folder) if (folder / COLLECTION_NAME).is_file() else []
        merged = merge(kept, list(runs.values()))
        new = sum(record not in kept for record in merged)
        if new:
            save_collection(merged, folder)
            collect_maps(runs, folder)
            changed[folder] = new
    return changed


def merge(kept: Sequence[RunRecord], runs: Sequence[RunRecord]) -> list[RunRecord]:
    """One record for each configuration, those of `kept` first and in their order."""
    return latest((*kept, *runs), lambda record: record.fingerprint)
