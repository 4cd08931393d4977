"""What the command line shows at the end of a run."""

from pathlib import Path

from rich.console import Console

from mimicry.reporting.run_record import RECORD_NAME, RunRecord
from mimicry.reporting.tables import conversion_tables, conversion_title, state_rows

# Columns that no table has.
UNCUT = 1000


def show(record: RunRecord, folder: Path) -> None:
    """Prints the table of a finished record and where its files are."""
    console = Console()
    title = conversion_title(record.attn, record.task, record.model, record.seed)
    console.print()
    tables = conversion_tables(title, state_rows(record), console.width)
    # They are as narrow as can be; of what is still too wide rich would cut off numbers, and a terminal goes on below.
    console.width = max(console.width, UNCUT)
    for table in tables:
        console.print(table)
    for trial in record.trials:
        if trial.chosen:
            rate = "" if trial.tokens_per_s is None else f", {trial.tokens_per_s:,.0f} tokens/s"
            tried = sum(other.stage == trial.stage for other in record.trials)
            among = f"; best of {tried} settings on held-out rows" if tried > 1 else ""
            settings = f"{trial.epochs} epoch{'s' * (trial.epochs > 1)} at learning rate {trial.learning_rate:g}"
            share = _share(trial.trained_parameters, record.data.get("parameters"))
            cost = f"{trial.steps} steps in {trial.wall_s:.0f} s{rate}{share}"
            console.print(f"{trial.stage + ':':16}{settings}: {cost}{among}", soft_wrap=True, highlight=False)
    rows = ", ".join(f"{split.replace('_', ' ')} {count:,}" for split, count in record.data["rows"].items() if count)
    console.print(f"{'rows:':16}{rows}; {_seconds(record)}", soft_wrap=True, highlight=False)
    for part in record.data.get("missing", ()):
        console.print(f"{'missing:':16}{part}", soft_wrap=True, highlight=False)
    for label, path in ({"record": RECORD_NAME} | record.artifacts).items():
        console.print(f"{label + ':':16}{_short(folder / path)}", soft_wrap=True, highlight=False)


def _seconds(record: RunRecord) -> str:
    whole = f"{record.wall_s:.0f} s in all"
    if record.analysis_s is None:
        return whole
    share = record.analysis_s / record.wall_s
    return f"{whole}, of which {record.analysis_s:.0f} s ({share:.0%}) for attention's analysis"


def _share(trained: int | None, parameters: int | None) -> str:
    if trained is None or parameters is None:
        return ""
    return f", {trained / parameters:.2%} of {parameters / 1e6:.1f} M parameters trained"


def _short(path: Path) -> str:
    here = Path.cwd()
    return str(path.relative_to(here) if path.is_relative_to(here) else path)
