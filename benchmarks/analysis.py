"""What analysing attention costs a run: the same run with the summary and with the full analysis, in turns.

    python benchmarks/analysis.py                                      the embedded default, twice
    python benchmarks/analysis.py task.max_train_rows=1000             less training, of which more is analysis
    python benchmarks/analysis.py attn=elu --repetitions 3 --save DIR

Each run has a process and a results folder of its own and finetunes its teacher again, so that nothing is reused. The
record says what of its seconds went into the analysis, figures and files included; the last column is by how much the
whole run takes longer than with the summary, which a busy machine makes noisy.
"""

import argparse
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from measuring import save_table
from rich.console import Console

from mimicry.reporting.run_record import read_record
from mimicry.reporting.tables import markdown_table

REPO = Path(__file__).resolve().parents[1]
KINDS = ("summary", "full")


@dataclass(frozen=True)
class Cost:
    """Of one run: seconds in all, and of them those for the analysis."""

    analysis: str
    repetition: int
    wall_s: float
    analysis_s: float


def measured(kind: str, repetition: int, overrides: Sequence[str]) -> Cost:
    """Runs `run.py` once, in a process of its own; CalledProcessError if it fails."""
    with tempfile.TemporaryDirectory() as folder:
        fixed = [f"analysis={kind}", "rerun=true", "logger.mode=disabled", f"paths.results={folder}"]
        subprocess.run([sys.executable, "run.py", *overrides, *fixed], cwd=REPO, check=True, stdout=subprocess.DEVNULL)
        (path,) = Path(folder).rglob("record.json")
        record = read_record(path)
    assert record.analysis_s is not None
    return Cost(kind, repetition, record.wall_s, record.analysis_s)


def table(costs: Sequence[Cost]) -> str:
    """Markdown: medians over the repetitions, a row for each kind of analysis."""
    lines = [["analysis", "run (s)", "of which analysis (s)", "share", "longer than with the summary"]]
    baseline = statistics.median(cost.wall_s for cost in costs if cost.analysis == KINDS[0])
    for kind in KINDS:
        mine = [cost for cost in costs if cost.analysis == kind]
        wall, spent = (statistics.median(getattr(cost, name) for cost in mine) for name in ("wall_s", "analysis_s"))
        share = statistics.median(cost.analysis_s / cost.wall_s for cost in mine)
        lines.append([kind, f"{wall:.0f}", f"{spent:.1f}", f"{share:.1%}", f"{wall / baseline - 1:+.1%}"])
    return markdown_table(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("overrides", nargs="*", help="options of run.py; none is the embedded default")
    parser.add_argument("--repetitions", type=int, default=1, help="runs of each kind, in turns")
    parser.add_argument("--save", type=Path, help="folder for table.md and table.csv")
    options = parser.parse_args()
    costs = [measured(kind, turn, options.overrides) for turn in range(options.repetitions) for kind in KINDS]
    command = " ".join(["python run.py", *options.overrides])
    text = f"# What analysing attention costs\n\n`{command}`\n\n{table(costs)}"
    Console().print(text, markup=False, soft_wrap=True)
    if options.save is not None:
        save_table(text, costs, options.save)


if __name__ == "__main__":
    main()
