"""A windowed hybrid and its control end to end, from the command line, on a tiny BERT and a toy task."""

from pathlib import Path

import pytest
from cli import run_here
from runs import records

from mimicry.reporting.run_record import read_record


def test_a_hybrid_is_distilled_whole_and_measured_without_its_linear_part(
    arguments: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for ablate in ("none", "linear"):
        run_here(monkeypatch, "attn=window_hedgehog", "attn.window=2", f"attn.ablate={ablate}", *arguments)
    run_here(monkeypatch, "attn=sliding_window", "attn.window=2", *arguments)
    found = {(r.attn, r.config["attn"].get("ablate")): r for r in map(read_record, records(tmp_path))}
    whole, control = found["window_hedgehog", "none"], found["sliding_window", None]
    no_linear = found["window_hedgehog", "linear"]
    assert whole.value("distilled", "analysis/kl") < 0.7 * whole.value("no_train", "analysis/kl")
    # What is left out was part of what was trained.
    assert whole.value("distilled", "analysis/kl") < no_linear.value("distilled", "analysis/kl")
    assert whole.value("recovered", "val/accuracy") > 0.9
    # The window alone has nothing to distil, and before training is what is left of the hybrid without its linear part.
    assert control.value("distilled", "val/accuracy") is None
    assert control.value("no_train", "analysis/kl") == pytest.approx(
        no_linear.value("no_train", "analysis/kl"), rel=1e-5
    )
