"""A finished run record that each test changes where it needs to."""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest

from mimicry.reporting.run_record import Measurement, ModelState, RunRecord, StageTime, TrialRecord

SCORES: dict[ModelState, float] = {"teacher": 0.80, "no_train": 0.50, "distilled": 0.72, "recovered": 0.76}


def measurements(scores: dict[ModelState, float]) -> tuple[Measurement, ...]:
    return (
        *(Measurement("val/accuracy", value, "fraction", state, "validation") for state, value in scores.items()),
        *(Measurement("val/f1", value, "fraction", state, "validation") for state, value in scores.items()),
        Measurement("val/loss", 0.4, "nats", "teacher", "validation"),
        Measurement("analysis/entropy", 1.25, "nats", "teacher", "validation"),
        Measurement("analysis/entropy", 1.5, "nats", "recovered", "validation"),
        Measurement("analysis/kl", 0.125, "nats", "recovered", "validation"),
    )


@pytest.fixture(scope="session")
def make_record() -> Callable[..., RunRecord]:
    base = RunRecord(
        status="finished",
        reason=None,
        regime="finetuned",
        model="minilm",
        task="movie_reviews",
        attn="hedgehog",
        seed=0,
        fingerprint="0123456789abcdef",
        config={"attn": {"name": "hedgehog"}, "optimizer": {"lr": 1e-3}},
        commit="a" * 40,
        dirty=False,
        versions={"python": "3.11.7"},
        hardware={"cpu": "a cpu", "gpu": None},
        data={
            "sources": {"train": "reviews.tsv", "validation": "dev.tsv"},
            "rows": {"train": 900, "held_out": 100, "validation": 50},
            "available": {"train": 2000, "validation": 50},
            "fingerprint": "f" * 64,
            "missing": [],
            "maps_corpus": None,
        },
        stages=(StageTime("teacher", 12.5, 100, 2000.0), StageTime("recovered", 6.25, 50, None)),
        metrics=measurements(SCORES),
        peak_memory_bytes=1 << 30,
        wall_s=20.0,
        started_at="2024-01-01T00:00:00+00:00",
        artifacts={"figure": "attention.png"},
        trials=(
            TrialRecord("teacher", 1, 2e-4, 100, 12.5, 2000.0, None, True),
            TrialRecord("recovered", 1, 1e-4, 50, 6.25, None, 0.7, False),
            TrialRecord("recovered", 2, 1e-4, 100, 12.0, None, 0.8, True),
        ),
    )

    def make(scores: dict[ModelState, float] | None = None, **changes: Any) -> RunRecord:
        if scores is not None:
            changes["metrics"] = measurements(scores)
        return replace(base, **changes)

    return make
