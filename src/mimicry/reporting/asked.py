"""Which experiments a run belongs to: an experiment may ask for what another one has run already."""

from pathlib import Path

from mimicry.reporting.run_record import RunRecord

# In the run's folder, one experiment a line.
FILE = "experiments.txt"


def note_experiment(folder: Path, experiment: str) -> None:
    """Notes in a run's folder that an experiment has asked for it."""
    known = _noted(folder)
    if experiment not in known:
        (folder / FILE).write_text("\n".join([*known, experiment]) + "\n", encoding="utf-8")


def asked_by(folder: Path, record: RunRecord) -> set[str]:
    """The experiments of a run; none of a smoke run, whose numbers mean nothing."""
    choices = record.choices or {}
    if "debug" in choices:
        return set()
    # A run that failed has no note.
    return {*_noted(folder), *([choices["experiments"]] if "experiments" in choices else [])}


def _noted(folder: Path) -> list[str]:
    path = folder / FILE
    return path.read_text(encoding="utf-8").splitlines() if path.is_file() else []
