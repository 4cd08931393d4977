"""Curves of training as a picture: which runs and stages are drawn, and in what."""

from collections.abc import Callable
from pathlib import Path

import pytest
from matplotlib.figure import Figure

from mimicry.reporting.run_record import RunRecord
from mimicry.reporting.series import Curve
from mimicry.reporting.training_figure import training_figure

MakeRecord = Callable[..., RunRecord]


def curves(*kinds: tuple[str, str], over: str = "batch") -> tuple[Curve, ...]:
    return tuple(Curve(name, stage, over, (8.0, 16.0, 24.0), (0.9, 0.5, 0.4)) for stage, name in kinds)


@pytest.fixture
def drawn(monkeypatch: pytest.MonkeyPatch) -> list[Figure]:
    """Every figure written, as an object."""
    written: list[Figure] = []
    original = Figure.savefig

    def savefig(figure: Figure, *args: object, **options: object) -> None:
        written.append(figure)
        original(figure, *args, **options)

    monkeypatch.setattr(Figure, "savefig", savefig)
    return written


def test_a_panel_for_each_stage_and_quantity_and_a_line_for_each_run(
    make_record: MakeRecord, drawn: list[Figure], tmp_path: Path
) -> None:
    losses = curves(("teacher", "train/loss"), ("distilled", "train/loss"), ("recovered", "train/loss"))
    scores = curves(("recovered", "val/accuracy"))
    runs = [
        make_record(seed=0, curves=losses + scores),
        make_record(seed=1, curves=losses),
        make_record(attn="elu", curves=curves(("recovered", "train/loss"))),
        make_record(attn="taylor"),
        make_record(attn="t2r", status="failed", reason="ValueError: no", curves=losses),
    ]
    path = training_figure(runs, tmp_path / "training.png")
    assert path == tmp_path / "training.png"
    assert path.read_bytes().startswith(b"\x89PNG")
    (figure,) = drawn
    assert [(ax.get_title(loc="left").split("\n")[1], ax.get_ylabel(), len(ax.lines)) for ax in figure.axes] == [
        ("distilled", "loss", 2),
        ("recovered", "loss", 3),
        ("recovered", "accuracy (%)", 1),
    ]
    # Scores are shown as tables show them.
    assert list(figure.axes[2].lines[0].get_ydata()) == [90.0, 50.0, 40.0]
    assert [text.get_text() for text in figure.axes[2].get_legend().get_texts()] == ["elu", "hedgehog"]


def test_variants_of_one_attention_share_a_colour_and_differ_in_dashes(
    make_record: MakeRecord, drawn: list[Figure], tmp_path: Path
) -> None:
    loss = curves(("recovered", "train/loss"))
    configs = [{"attn": {"name": "hedgehog", "tie_maps": tied}, "optimizer": {"lr": 1e-3}} for tied in (False, True)]
    runs = [make_record(config=config, fingerprint=str(i) * 16, curves=loss) for i, config in enumerate(configs)]
    training_figure([*runs, make_record(attn="elu", curves=loss)], tmp_path / "training.png")
    elu, *both = drawn[0].axes[0].lines
    assert both[0].get_color() == both[1].get_color() != elu.get_color()
    assert both[0].get_linestyle() != both[1].get_linestyle()


def test_perplexities_have_a_logarithmic_scale(make_record: MakeRecord, drawn: list[Figure], tmp_path: Path) -> None:
    run = make_record(regime="scratch", curves=curves(("trained", "train/loss"), ("trained", "val/nll_token")))
    training_figure([run], tmp_path / "training.png", "val/nll_token")
    assert [ax.get_yscale() for ax in drawn[0].axes] == ["linear", "log"]


def test_nothing_is_written_where_no_run_has_a_curve(make_record: MakeRecord, tmp_path: Path) -> None:
    old = make_record(curves=curves(("recovered", "train/loss"), over="step"))
    assert training_figure([make_record(), old], tmp_path / "training.png") is None
    assert not list(tmp_path.iterdir())
