"""Records of one experiment in one folder, and every table, figure and verdict made of them, to commit."""

import json
import logging
from collections.abc import Iterable
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path

from mimicry.reporting.comparison import all_sheets
from mimicry.reporting.portable import portable
from mimicry.reporting.published import published_sheets
from mimicry.reporting.run_record import COLLECTION_NAME, RECORD_NAME, RunRecord, parse_record
from mimicry.reporting.schema import to_plain
from mimicry.reporting.score_figure import score_figure
from mimicry.reporting.targets import read_targets
from mimicry.reporting.tidy import tidy_csv
from mimicry.reporting.verdicts import Verdict, judge

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Collection:
    """The records of an experiment, kept together, and the verdicts on its targets.

    `folder` is where they lie; its name is the experiment's id.
    """

    folder: Path
    records: tuple[RunRecord, ...]
    verdicts: tuple[Verdict, ...]

    @property
    def name(self) -> str:
        return self.folder.resolve().name


def read_records(root: Path) -> list[RunRecord]:
    """Every readable record below `root`, single or collected, sorted by path; a broken one is warned about."""
    return [
        record
        for path in sorted([*root.rglob(RECORD_NAME), *root.rglob(COLLECTION_NAME)])
        for record in _records_of(path)
    ]


def read_single_records(root: Path) -> dict[Path, RunRecord]:
    """The readable records below `root` that stand alone, by their path."""
    return {path: record for path in sorted(root.rglob(RECORD_NAME)) for record in _records_of(path)}


def read_collections(root: Path, experiments: Path) -> list[Collection]:
    """Every collection below `root`, held against the targets that `<experiments>/<its name>.yaml` states.

    Raises:
        ValueError: when an experiment states targets that cannot be read.
    """
    found = [(path.parent, _records_of(path)) for path in sorted(root.rglob(COLLECTION_NAME))]
    return [collection(records, folder, experiments) for folder, records in found if records]


def collection(records: Iterable[RunRecord], folder: Path, experiments: Path) -> Collection:
    """Records of one experiment and the verdicts on what it states."""
    records = tuple(records)
    targets = read_targets(experiments / f"{folder.resolve().name}.yaml")
    return Collection(folder, records, tuple(verdict for target in targets for verdict in judge(target, records)))


def save_records(records: Iterable[RunRecord], folder: Path) -> None:
    """Writes records into one file of `folder`, one a line: what is committed, without paths of this machine."""
    folder.mkdir(parents=True, exist_ok=True)
    lines = [json.dumps(to_plain(portable(record)), sort_keys=True, ensure_ascii=False) for record in records]
    (folder / COLLECTION_NAME).write_text("\n".join(lines) + "\n", encoding="utf-8")


def write_tables(of: Collection, score: str | None = None) -> None:
    """Writes tables, figure, verdicts and provenance beside the records, which stay as they are.

    The same records and targets give the same files, byte for byte.

    Args:
        of: whose records lie in its folder.
        score: such as `val/f1`; None takes each task's primary metric.
    """
    sheets, published = all_sheets(of.records, score), published_sheets(of.verdicts)
    files = {
        "table.md": "\n".join(sheet.markdown() for sheet in sheets),
        "table.tex": "\n".join(sheet.latex() for sheet in sheets),
        "table.csv": tidy_csv(of.records),
        "provenance.json": json.dumps(provenance(of), indent=2, sort_keys=True) + "\n",
    }
    if published:
        files["paper.md"] = "\n".join(sheet.markdown() for sheet in published)
        files["paper.tex"] = "\n".join(sheet.latex() for sheet in published)
    for name, content in files.items():
        (of.folder / name).write_text(content, encoding="utf-8")
    score_figure(of.records, of.folder / "figure.png", score)


def provenance(of: Collection) -> dict[str, object]:
    """Where the numbers of a collection come from: its file's hash, code, packages, machines, data and time."""
    records, file = of.records, of.folder / COLLECTION_NAME

    def distinct(values: Iterable[object]) -> list[object]:
        return [json.loads(value) for value in sorted({json.dumps(value, sort_keys=True) for value in values})]

    return {
        "records": {"file": file.name, "sha256": sha256(file.read_bytes()).hexdigest(), "count": len(records)},
        "commits": distinct({"commit": record.commit, "with_changes": record.dirty} for record in records),
        "versions": distinct(record.versions for record in records),
        "hardware": distinct(record.hardware for record in records),
        "data": distinct(
            {"fingerprint": record.data.get("fingerprint"), "sources": record.data.get("sources")}
            for record in records
            if record.data
        ),
        "first_started": min(record.started_at for record in records),
        "last_started": max(record.started_at for record in records),
        "seconds_in_all": round(sum(record.wall_s for record in records), 1),
        "runs": [{"fingerprint": r.fingerprint, "seed": r.seed, "status": r.status} for r in records],
    }


def _records_of(path: Path) -> list[RunRecord]:
    """The readable ones of a single record's file, or of a collection's."""
    collected = path.name == COLLECTION_NAME
    records = []
    for position, line in enumerate(path.read_bytes().splitlines() if collected else [path.read_bytes()], 1):
        try:
            records.append(parse_record(line, f"{path}:{position}" if collected else str(path)))
        except ValueError as error:
            _log.warning("ignoring a broken run record: %s", error)
    return records
