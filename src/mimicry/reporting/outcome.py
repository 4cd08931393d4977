"""What W&B is told at the end of a run: headline numbers to sort by, tables, curves and figures.

In the units of tables: percent, perplexity, nats. Headline keys, of the last state of the model: `score`,
`percent_of_teacher`, `kl`, `entropy`; and of the whole run `train_s`, `analysis_s`, `peak_memory_gb`, `parameters`.
"""

from collections import defaultdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mimicry.reporting.run_record import ENTROPY, KL, RunRecord
from mimicry.reporting.tables import conversion_cells, fraction_of_teacher, shown, state_rows

if TYPE_CHECKING:
    from wandb import Run

TRIAL_COLUMNS = ("stage", "epochs", "learning_rate", "steps", "wall_s", "tokens_per_s", "held_out", "chosen")


def log_outcome(run: "Run", record: RunRecord, figure: Path) -> None:
    """Mirrors a run's measurements: each as a summary value such as `recovered/val/accuracy`, and all together."""
    import wandb

    run.summary.update({f"{entry.stage}/{entry.name}": entry.value for entry in record.metrics})
    run.summary.update({name: value for name, value in headline(record).items() if value is not None})
    header, *body = conversion_cells(state_rows(record))
    trials = [[getattr(trial, name) for name in TRIAL_COLUMNS] for trial in record.trials]
    run.log(
        {
            "analysis/attention_maps": wandb.Image(str(figure)),
            "tables/states": wandb.Table(columns=header, data=body),
            "tables/trials": wandb.Table(columns=[*TRIAL_COLUMNS], data=trials),
            **_heads(record),
            **_curves(record),
        }
    )


def headline(record: RunRecord) -> dict[str, float | None]:
    """The numbers a list of runs is sorted by; see the module."""
    last, name = record.stages[-1].stage, record.score_names()[0]
    value = record.value(last, name)
    kept = fraction_of_teacher(name, value, record.value("teacher", name))
    return {
        "score": shown(name, value),
        "percent_of_teacher": None if kept is None else 100 * kept,
        "kl": record.value(last, KL),
        "entropy": record.value(last, ENTROPY),
        # What other variants' runs have trained cost nothing here.
        "train_s": sum(stage.wall_s for stage in record.stages if not stage.reused),
        "analysis_s": record.analysis_s,
        "peak_memory_gb": None if record.peak_memory_bytes is None else record.peak_memory_bytes / 1e9,
        "parameters": record.data.get("parameters"),
    }


def _heads(record: RunRecord) -> dict[str, Any]:
    """One table per measured quantity, a row per state, layer and head."""
    import wandb

    rows: dict[str, list[list[Any]]] = defaultdict(list)
    for grid in record.heads:
        for layer, heads in enumerate(grid.values):
            rows[grid.name] += [[grid.stage, layer, head, value] for head, value in enumerate(heads)]
    columns = ["state", "layer", "head", "value"]
    return {f"heads/{name}": wandb.Table(columns=columns, data=data) for name, data in rows.items()}


def _curves(record: RunRecord) -> dict[str, Any]:
    """One chart per quantity, a line per state."""
    import wandb

    by_name = defaultdict(list)
    for curve in record.curves:
        points = [(x, y) for x, y in zip(curve.x, curve.y, strict=True) if x is not None and y is not None]
        if points:
            by_name[curve.name].append((curve.stage, curve.x_name, *zip(*points, strict=True)))
    charts = {}
    for name, lines in by_name.items():
        stages, x_names, xs, ys = zip(*lines, strict=True)
        charts[f"curves/{name}"] = wandb.plot.line_series(xs, ys, keys=stages, title=name, xname=x_names[0])
    return charts
