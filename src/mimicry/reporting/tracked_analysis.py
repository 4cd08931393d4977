"""What an analysis of attention leaves in W&B: tables, histograms and figures under `analysis/`."""

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from mimicry.reporting.run_record import RunRecord

if TYPE_CHECKING:
    from wandb import Run


def log_analysis(run: "Run", record: RunRecord, written: Mapping[str, Path]) -> None:
    """Mirrors values per head and curves as tables, how heads spread as histograms, and the figures written.

    Args:
        run: open.
        record: with `heads` and `curves`, or with neither.
        written: figures and other files by name; what is no PNG stays on disk.
    """
    import wandb

    logged: dict[str, Any] = {}
    if record.heads:
        cells = [
            [grid.stage, grid.name, layer, head, value]
            for grid in record.heads
            for layer, row in enumerate(grid.values)
            for head, value in enumerate(row)
        ]
        logged["analysis/heads"] = wandb.Table(columns=["state", "quantity", "layer", "head", "mean"], data=cells)
        for grid in record.heads:
            values = [value for row in grid.values for value in row if value is not None]
            if values:
                logged[f"{grid.name}/{grid.stage}"] = wandb.Histogram(np_histogram=np.histogram(values, bins=16))
    if record.curves:
        rows = [
            [curve.stage, curve.name, curve.x_name, x, y]
            for curve in record.curves
            for x, y in zip(curve.x, curve.y, strict=True)
        ]
        logged["analysis/curves"] = wandb.Table(columns=["state", "name", "x_name", "x", "y"], data=rows)
    figures = {name: path for name, path in written.items() if path.suffix == ".png"}
    logged |= {f"{name}/figure": wandb.Image(str(path)) for name, path in figures.items()}
    if logged:
        run.log(logged)
