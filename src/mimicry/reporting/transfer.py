"""Do maps imitate softmax on texts they never saw? `python -m mimicry.reporting.transfer results/runs --save DIR`.

Divergence from the teacher's attention by task, for maps distilled on the task's own rows or on another corpus, beside
the same maps untrained. Source: arXiv 2402.04347, Sec. 5 (attention weight fidelity and generalisation to new data).
"""

import argparse
import statistics
import sys
from collections import defaultdict
from collections.abc import Sequence

from mimicry.reporting.report import Report, report_command
from mimicry.reporting.run_record import KL, ModelState, RunRecord
from mimicry.reporting.tables import GAP, STATE_LABELS, markdown_table, number
from mimicry.reporting.variants import finished, variants

STATES: tuple[ModelState, ...] = ("no_train", "distilled")


def transfer_tables(records: Sequence[RunRecord]) -> str:
    """Markdown: for each model a row for each attention, corpus of its maps and state, a column for each task.

    Cells are means over seeds in nats, and the last column their mean over the tasks; one that lacks a task has a gap.
    """
    models = defaultdict(list)
    for record in finished(records):
        if any(record.value(state, KL) is not None for state in STATES):
            models[record.regime, record.model].append(record)
    return "\n".join(_table(f"{' · '.join(key)}", runs) for key, runs in sorted(models.items()))


def _table(title: str, records: Sequence[RunRecord]) -> str:
    tasks = sorted({record.task for record in records})
    lines = [["attention", "maps from", "state", *tasks, "mean"]]
    for attn in sorted({record.attn for record in records}):
        runs = [record for record in records if record.attn == attn]
        # Untrained maps know no corpus: each task is measured once, whatever its maps are trained on later.
        cells = [_kl([run for run in runs if run.task == task], "no_train") for task in tasks]
        lines.append([attn, GAP, STATE_LABELS["no_train"], *_row(cells)])
        for corpus in sorted({run.maps_from for run in runs}):
            mine = [run for run in runs if run.maps_from == corpus]
            cells = [_kl([run for run in mine if run.task == task], "distilled") for task in tasks]
            if any(cell is not None for cell in cells):
                lines.append([attn, corpus, STATE_LABELS["distilled"], *_row(cells)])
    about = "KL from the teacher's attention (nats), mean over seeds; every task has a teacher of its own"
    return f"**{title}** · {about}\n\n{markdown_table(lines)}"


def _kl(runs: Sequence[RunRecord], state: ModelState) -> float | None:
    measured = [run for run in runs if run.value(state, KL) is not None]
    # A seed counts once, however often it ran.
    counted = (run for same in variants(measured, apart_from=("seed", "maps_corpus")).values() for run in same)
    values = [value for run in counted if (value := run.value(state, KL)) is not None]
    return statistics.fmean(values) if values else None


def _row(cells: Sequence[float | None]) -> list[str]:
    known = [cell for cell in cells if cell is not None]
    mean = statistics.fmean(known) if len(known) == len(cells) else None
    return [number(cell, 3) for cell in (*cells, mean)]


def main(arguments: list[str] | None = None) -> int:
    """Writes the tables to standard output and, with --save, `transfer.md`; 1 without a record that has them."""
    parser = argparse.ArgumentParser(prog="python -m mimicry.reporting.transfer", description=__doc__)

    def make(records: Sequence[RunRecord], _options: argparse.Namespace) -> Report:
        return Report(transfer_tables(records))

    return report_command(parser, arguments, "transfer", "finished conversions", make)


if __name__ == "__main__":
    sys.exit(main())
