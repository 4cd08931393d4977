"""What a full analysis leaves beside its record: figures as PNG, and all numbers as Parquet."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mimicry.reporting.analysis_plots import CURVE_FIGURES, heads_figure, monotonicity_figure
from mimicry.reporting.run_record import RunRecord
from mimicry.reporting.series import Curve

FOLDER = "analysis"


@dataclass(frozen=True)
class AttentionTables:
    """What of an analysis is more than a record should hold, row by row.

    `heads` has a row for each state, quantity, layer and head, with mean, standard deviation, count and, in a full
    analysis, quantiles; `points` some pairs of log weights, for the scatter plot.
    """

    heads: tuple[dict[str, Any], ...] = ()
    points: tuple[dict[str, Any], ...] = ()


def write_attention_report(record: RunRecord, tables: AttentionTables, folder: Path) -> dict[str, Path]:
    """Writes the folder `analysis`: a figure for each quantity and curve, `heads`, `curves` and `points` as Parquet.

    Returns:
        What was written, by its name: figures as `analysis/<quantity>`.
    """
    title, written = f"{record.attn} on {record.task}", {}
    where = folder / FOLDER
    for name in dict.fromkeys(grid.name for grid in record.heads):
        grids = [grid for grid in record.heads if grid.name == name]
        written[name] = heads_figure(grids, title, where / f"{name.removeprefix('analysis/')}_heads.png")
    for (name, x_name), draw in CURVE_FIGURES.items():
        curves = _curves(record, name, x_name)
        if curves:
            kind = f"{name}_by_{x_name}" if x_name in ("position", "tokens") else name
            written[kind] = draw(curves, title, where / f"{kind.removeprefix('analysis/')}.png")
    rising = _curves(record, "analysis/monotonicity", "q.k")
    if rising:
        path = where / "monotonicity.png"
        written["analysis/monotonicity_scatter"] = monotonicity_figure(rising, tables.points, title, path)
    rows = {"heads": tables.heads, "points": tables.points, "curves": _curve_rows(record)}
    for name, entries in rows.items():
        if entries:
            written[name] = _parquet(entries, where / f"{name}.parquet")
    return written


def read_tables(folder: Path) -> AttentionTables:
    """What `write_attention_report` has left there; empty where there is nothing."""
    import pyarrow.parquet

    paths = [folder / FOLDER / f"{name}.parquet" for name in ("heads", "points")]
    return AttentionTables(*(tuple(pyarrow.parquet.read_table(p).to_pylist()) if p.exists() else () for p in paths))


def _curves(record: RunRecord, name: str, x_name: str) -> list[Curve]:
    return [curve for curve in record.curves if (curve.name, curve.x_name) == (name, x_name)]


def _curve_rows(record: RunRecord) -> list[dict[str, Any]]:
    rows = []
    for curve in record.curves:
        nothing: tuple[None, ...] = (None,) * len(curve.x)
        columns = zip(curve.x, curve.y, curve.low or nothing, curve.high or nothing, strict=True)
        named = {"state": curve.stage, "name": curve.name, "x_name": curve.x_name}
        rows += [{**named, "x": x, "y": y, "low": low, "high": high} for x, y, low, high in columns]
    return rows


def _parquet(rows: Sequence[dict[str, Any]], path: Path) -> Path:
    # Part of datasets, slow to import, and only needed here.
    import pyarrow
    import pyarrow.parquet

    path.parent.mkdir(parents=True, exist_ok=True)
    pyarrow.parquet.write_table(pyarrow.Table.from_pylist(list(rows)), path)
    return path
