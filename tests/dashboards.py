"""A results folder with everything that the dashboard shows, made of records."""

import base64
import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np

from mimicry.reporting.comparison import save_collection
from mimicry.reporting.run_record import Measurement, ModelState, RunRecord, write_record
from mimicry.reporting.series import Curve, HeadGrid

MakeRecord = Callable[..., RunRecord]
# Markup, a template's slot, the end of a script, a formula of spreadsheets and quotes: all of it nothing but a name.
HOSTILE = "<img src=x onerror=alert(1)></script>{{style}}\"'&<b>"
TOKENS = ["[CLS]", "a", "<i>fine</i>", "film", "[SEP]"]
STATES: tuple[ModelState, ...] = ("teacher", "no_train", "distilled", "recovered")
KEPT = {"softmax": 1.0, "hedgehog": 0.99, "taylor": 0.97, "elu": 0.93}
KL = {"softmax": 0.01, "hedgehog": 0.2, "taylor": 0.5, "elu": 1.2}
TARGETS = """
targets:
  - {quantity: percent_of_teacher, stage: recovered, attn: hedgehog, task: sst2, value: 99.3, tolerance: 1.0,
     confidence: high, source: Table 8}
  - {quantity: score, stage: recovered, attn: hedgehog, task: cola, model: bert_base, value: 59.2, tolerance: 1.0,
     confidence: high, source: Table 8}
  - {quantity: score, stage: recovered, attn: elu, task: sst2, value: 95.0, tolerance: 1.0, source: Table 1}
  - {quantity: percent_of_teacher, stage: recovered, attn: hedgehog, above: elu, task: sst2, source: "Table 8, small"}
"""
SPEED = """mode,direction,tokens,contender,median_s,ratio,extra_bytes,share_of_matmul
forward,causal,512,sdpa,0.006,1.0,1000000,
forward,causal,512,hedgehog,0.006,1.0,2000000,
forward,causal,4096,sdpa,0.21,1.0,8000000,
forward,causal,4096,hedgehog,0.045,4.64,,
"""


def measurements(attn: str, seed: int) -> tuple[Measurement, ...]:
    teacher = 0.84 + 0.005 * seed
    kept = {"teacher": 1.0, "no_train": 0.8, "distilled": 0.5 + KEPT[attn] / 2, "recovered": KEPT[attn]}
    scores = [Measurement("val/accuracy", teacher * kept[s], "fraction", s, "validation") for s in STATES]
    kl = [Measurement("analysis/kl", KL[attn] + 0.01 * seed, "nats", s, "validation") for s in STATES[1:]]
    return (*scores, *kl, *(Measurement("analysis/entropy", 2.0, "nats", s, "validation") for s in STATES))


def analyses(attn: str) -> dict[str, object]:
    """Heads and curves of the shapes that analyses leave."""
    draw = np.random.default_rng(0)

    def grid(name: str, unit: str, state: str, top: float) -> HeadGrid:
        values = [
            [None if (i, j) == (0, 0) else round(float(v), 4) for j, v in enumerate(row)]
            for i, row in enumerate(draw.uniform(0, top, (4, 6)))
        ]
        return HeadGrid(name, state, unit, tuple(map(tuple, values)))

    grids = [grid("analysis/entropy", "nats", state, 3.0) for state in STATES]
    grids += [grid("analysis/kl", "nats", state, KL[attn]) for state in STATES[1:]]
    x = tuple(round(float(value), 2) for value in np.linspace(-12, 0, 25))
    y = tuple(round(KEPT[attn] ** 9 * value, 4) for value in x)
    low, high = (tuple(value + spread for value in y) for spread in (-0.5, 0.5))
    weights = Curve("analysis/monotonicity", "recovered", "q.k", x, y, low, high)
    steps = tuple(float(step) for step in range(9, 500, 10))
    loss = tuple(round(KL[attn] + float(np.exp(-step / 100)), 4) for step in steps)
    return {"heads": tuple(grids), "curves": (Curve("train/loss", "distilled", "batch", steps, loss), weights)}


def attention_maps() -> dict[str, object]:
    shape = (2, 3, len(TOKENS), len(TOKENS))
    scores = np.random.default_rng(0).normal(size=shape)
    weights = np.exp(3 * scores) / np.exp(3 * scores).sum(-1, keepdims=True)
    stored = base64.b64encode(np.round(255 * weights).astype(np.uint8).tobytes()).decode()
    return {"tokens": TOKENS, "teacher": stored, "student": stored, "shape": list(shape)}


def write_results(make_record: MakeRecord, folder: Path) -> Path:
    """`folder/results` and `folder/experiments`: four attentions with three seeds, a benchmark, and two single runs."""
    (folder / "experiments").mkdir()
    (folder / "experiments" / "some_glue.yaml").write_text(TARGETS, encoding="utf-8")
    root = folder / "results"
    kept = [
        make_record(
            attn=attn,
            seed=seed,
            task="sst2",
            metrics=measurements(attn, seed),
            fingerprint=f"{number:04d}{seed:012d}",
            config={"attn": {"name": attn}, "seed": seed, "task": {"name": "sst2", "root": "data/glue"}},
            **analyses(attn),
        )
        for number, attn in enumerate(KEPT)
        for seed in range(3)
    ]
    save_collection(kept, root / "some_glue")
    (root / "speed").mkdir()
    (root / "speed" / "table.csv").write_text(SPEED, encoding="utf-8")
    (root / "speed" / "table.md").write_text("# Attention, batch 1\n", encoding="utf-8")
    single = make_record(
        task="digits",
        model=HOSTILE,
        fingerprint="f" * 16,
        overrides=("attn=hedgehog", "model.path=a model"),
        choices={"attn": "hedgehog"},
        metrics=measurements("hedgehog", 0),
        analysis_s=2.5,
        **analyses("hedgehog"),
    )
    beside = write_record(single, root / "runs" / "one").parent
    (beside / "attention_maps.json").write_text(json.dumps(attention_maps()), encoding="utf-8")
    failed = replace(
        single, fingerprint="e" * 16, status="failed", reason=f"ValueError: {HOSTILE}", metrics=(), heads=()
    )
    write_record(failed, root / "runs" / "two")
    # A copy of a collected run, which must not count twice.
    write_record(kept[0], root / "runs" / "three")
    return root
