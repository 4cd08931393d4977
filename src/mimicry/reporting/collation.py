"""Records of one experiment in one folder, and every table, figure and verdict made of them, to commit."""

import json
from collections.abc import Iterable
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path

from mimicry.reporting.comparison import all_sheets, records_in
from mimicry.reporting.published import published_sheets
from mimicry.reporting.run_record import COLLECTION_NAME, RunRecord
from mimicry.reporting.score_figure import score_figure
from mimicry.reporting.targets import read_targets
from mimicry.reporting.tidy import tidy_csv
from mimicry.reporting.training_figure import training_figure
from mimicry.reporting.verdicts import Verdict, judge


@dataclass(frozen=True)
class Collection:
    """The records of an experiment, kept together in `folder`, and the verdicts on its targets.

    An experiment that did not run has no records, and a folder that is not there.
    """

    name: str
    folder: Path
    records: tuple[RunRecord, ...]
    verdicts: tuple[Verdict, ...]


def read_collections(root: Path, experiments: Path) -> list[Collection]:
    """Every collection below `root`, held against the targets of its experiment.

    Raises:
        ValueError: when an experiment states targets that cannot be read.
    """
    found = [(path.parent, records_in(path)) for path in sorted(root.rglob(COLLECTION_NAME))]
    return [collection(records, folder, experiments) for folder, records in found if records]


def collection(records: Iterable[RunRecord], folder: Path, experiments: Path) -> Collection:
    """Records of one experiment and the verdicts on what it states."""
    name = experiment_name(folder, experiments)
    return Collection(name, folder, tuple(records), _verdicts(experiments / f"{name}.yaml", records))


def experiments_without_records(collections: Iterable[Collection], root: Path, experiments: Path) -> list[Collection]:
    """The experiments that state targets and of which no collection is there.

    Raises:
        ValueError: when targets cannot be read.
    """
    known = {entry.name for entry in collections}
    names = [path.relative_to(experiments).with_suffix("").as_posix() for path in sorted(experiments.rglob("*.yaml"))]
    empty = {name: _verdicts(experiments / f"{name}.yaml", ()) for name in names if name not in known}
    return [Collection(name, root / name, (), verdicts) for name, verdicts in empty.items() if verdicts]


def experiment_name(folder: Path, experiments: Path) -> str:
    """The id of the experiment that a folder is named after, such as `mini/some_glue`; its own name without one."""
    parts = folder.resolve().parts[1:]
    names = ["/".join(parts[start:]) for start in range(len(parts))]
    return next((name for name in names if (experiments / f"{name}.yaml").is_file()), parts[-1])


def _verdicts(experiment: Path, records: Iterable[RunRecord]) -> tuple[Verdict, ...]:
    return tuple(verdict for target in read_targets(experiment) for verdict in judge(target, list(records)))


def write_tables(of: Collection, score: str | None = None) -> None:
    """Writes tables, figures, verdicts and provenance beside the records, which stay as they are.

    The same records and targets give the same files, byte for byte.

    Args:
        of: whose records lie in its folder.
        score: such as `val/f1`; None takes each task's primary metric.
    """
    sheets = all_sheets(of.records, score)
    files = {
        "table.md": "\n".join(sheet.markdown() for sheet in sheets),
        "table.tex": "\n".join(sheet.latex() for sheet in sheets),
        "table.csv": tidy_csv(of.records),
        "provenance.json": json.dumps(provenance(of), indent=2, sort_keys=True) + "\n",
    }
    for name, content in files.items():
        (of.folder / name).write_text(content, encoding="utf-8")
    write_verdicts([of], of.folder)
    score_figure(of.records, of.folder / "figure.png", score)
    training_figure(of.records, of.folder / "training.png", score)


def write_verdicts(collections: Iterable[Collection], folder: Path) -> None:
    """Writes the paper's tables with our numbers beside them, and all verdicts; nothing where no target is stated."""
    sheets = published_sheets([verdict for entry in collections for verdict in entry.verdicts])
    if sheets:
        (folder / "paper.md").write_text("\n".join(sheet.markdown() for sheet in sheets), encoding="utf-8")
        (folder / "paper.tex").write_text("\n".join(sheet.latex() for sheet in sheets), encoding="utf-8")


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
