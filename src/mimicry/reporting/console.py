"""What the command line shows at the end of a run."""

from pathlib import Path

from rich.console import Console

from mimicry.reporting.run_record import RECORD_NAME, RunRecord
from mimicry.reporting.tables import conversion_table, conversion_title, state_rows


def show(record: RunRecord, folder: Path) -> None:
    """Prints the table of a finished record and where its files are."""
    console = Console()
    title = conversion_title(record.attn, record.task, record.model, record.seed)
    console.print()
    console.print(conversion_table(title, state_rows(record)))
    rows = record.data["rows"]
    console.print(f"{rows['train']} training and {rows['validation']} validation rows; {record.wall_s:.0f} s in all")
    for label, path in ({"record": RECORD_NAME} | record.artifacts).items():
        console.print(f"{label + ':':16}{_short(folder / path)}", soft_wrap=True, highlight=False)


def _short(path: Path) -> str:
    here = Path.cwd()
    return str(path.relative_to(here) if path.is_relative_to(here) else path)
