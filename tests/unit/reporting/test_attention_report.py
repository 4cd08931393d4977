"""The figures and tables of a full analysis, drawn from records."""

from collections.abc import Callable
from pathlib import Path

import matplotlib.image
import numpy as np
import pyarrow.parquet
import pytest

from mimicry.reporting.analysis_plots import COLOURS, _matrix, heads_figure
from mimicry.reporting.attention_report import AttentionTables, write_attention_report
from mimicry.reporting.run_record import RunRecord
from mimicry.reporting.series import Curve, HeadGrid
from mimicry.reporting.tables import STATE_LABELS

STATES = ("teacher", "no_train", "recovered")


def grid(name: str, state: str, layers: int = 3, heads: int = 4) -> HeadGrid:
    values = np.random.default_rng(len(state)).random((layers, heads)).round(3).tolist()
    values[0][1] = None
    return HeadGrid(name, state, "nats", tuple(map(tuple, values)))


def curve(name: str, state: str, x_name: str) -> Curve:
    x = tuple(np.linspace(-11, -1, 6).tolist())
    y = (None, *x[1:])
    return Curve(name, state, x_name, x, y, tuple(v and v - 1 for v in y), tuple(v and v + 0.5 for v in y))


def pixels(path: Path) -> np.ndarray:
    return matplotlib.image.imread(path)[..., :3]


def test_each_quantity_and_curve_gets_a_figure_and_the_numbers_a_table(
    tmp_path: Path, make_record: Callable[..., RunRecord]
) -> None:
    kinds = (
        ("analysis/monotonicity", "q.k"),
        ("analysis/entropy_histogram", "entropy_normalised"),
        ("analysis/kl", "position"),
    )
    record = make_record(
        heads=tuple(grid(name, state) for name in ("analysis/entropy", "analysis/kl") for state in STATES),
        curves=tuple(curve(name, state, x_name) for name, x_name in kinds for state in STATES),
    )
    heads = tuple({"state": state, "layer": 0, "mean": 0.5} for state in STATES)
    points = tuple({"state": state, "log_softmax": -3.0, "log_weight": -4.0} for state in STATES)
    written = write_attention_report(record, AttentionTables(heads, points), tmp_path)
    assert sorted(path.name for path in written.values()) == [
        "curves.parquet",
        "entropy_heads.png",
        "entropy_histogram.png",
        "heads.parquet",
        "kl_by_position.png",
        "kl_heads.png",
        "monotonicity.png",
        "points.parquet",
    ]
    assert {path.parent for path in written.values()} == {tmp_path / "analysis"}
    rows = pyarrow.parquet.read_table(written["curves"]).to_pylist()
    assert len(rows) == 9 * 6
    assert rows[0] == {
        "state": "teacher",
        "name": "analysis/monotonicity",
        "x_name": "q.k",
        "x": -11.0,
        "y": None,
        "low": None,
        "high": None,
    }
    assert pyarrow.parquet.read_table(written["heads"]).to_pylist() == list(heads)
    for path in written.values():
        if path.suffix == ".png":
            # Column width at 150 dpi or more, and more on it than axes.
            assert pixels(path).shape[1] > 450
            assert len(np.unique(pixels(path).reshape(-1, 3), axis=0)) > 50


def test_without_an_analysis_nothing_is_written(tmp_path: Path, make_record: Callable[..., RunRecord]) -> None:
    assert write_attention_report(make_record(), AttentionTables(), tmp_path) == {}
    assert not (tmp_path / "analysis").exists()


@pytest.mark.parametrize("states", [1, 2, 3])
def test_a_heat_map_shows_every_head_and_leaves_gaps_white(states: int, tmp_path: Path) -> None:
    grids = [grid("analysis/entropy", state) for state in STATES[:states]]
    image = pixels(heads_figure(grids, "costs $5", tmp_path / "a" / "heads.png"))
    colours = {tuple((255 * colour).astype(int)) for colour in np.unique(image.reshape(-1, 3), axis=0)}
    viridis = matplotlib.colormaps["viridis"]
    values = np.concatenate([_matrix(entry).ravel() for entry in grids])
    low, high = np.nanmin(values), np.nanmax(values)
    for value in values[np.isfinite(values)]:
        wanted = np.array(viridis((value - low) / (high - low))[:3]) * 255
        assert min(np.abs(np.array(colour) - wanted).max() for colour in colours) < 4


def test_layers_of_fewer_heads_end_in_gaps() -> None:
    matrix = _matrix(HeadGrid("analysis/kl", "recovered", "nats", ((1.0, 2.0), (3.0,))))
    np.testing.assert_array_equal(matrix, [[1.0, 2.0], [3.0, np.nan]])


def test_one_figure_is_of_one_quantity(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="grids must be of one quantity, got analysis/entropy, analysis/kl"):
        heads_figure([grid("analysis/kl", "teacher"), grid("analysis/entropy", "teacher")], "t", tmp_path / "x.png")
    with pytest.raises(ValueError, match="grids must be of one quantity, got none"):
        heads_figure([], "t", tmp_path / "x.png")


def test_every_state_has_a_colour_of_its_own() -> None:
    assert set(COLOURS) == set(STATE_LABELS)
    assert len(set(COLOURS.values())) == len(COLOURS)
