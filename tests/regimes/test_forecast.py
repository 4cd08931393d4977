"""What the time that a run expects to take is made of."""

import pytest
from cli import run_here

from mimicry.regimes import job


def test_only_what_will_be_trained_is_counted(arguments: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    counted, forecast = [], job.forecast_seconds
    monkeypatch.setattr(job, "forecast_seconds", lambda *about: counted.append(about[-1]) or forecast(*about))
    run_here(monkeypatch, "-m", "attn=hedgehog,elu", *arguments)
    # Maps without parameters learn nothing, and the second run takes the teacher of the first.
    assert counted == [[], ["distill", "teach"]]
