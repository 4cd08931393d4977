"""Which heads a conversion fails on: divergence per head, and what the score gains when one of them keeps softmax.

One configuration is taught (or its teacher taken from the cache) and distilled as `run.py` does it, not recovered. On
its held-out training rows every head is then measured, and the heads that diverge most get exact softmax back, one at a
time, then the best two together; so does each layer.

    python benchmarks/heads.py experiments=minilm_glue_pairs task=stsb task.root=path/to/glue ablation=wide_maps \
        --save results/stsb_heads
"""

import argparse
import csv
import functools
import os
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import asdict, fields
from pathlib import Path
from typing import Any

import torch
from head_measures import HeadFigures, head_figures, with_softmax
from hydra import compose, initialize_config_dir
from omegaconf import OmegaConf
from rich.console import Console
from torch import nn

from mimicry.app import build, set_up_logging
from mimicry.assets import cache_root
from mimicry.execution import TEACHER_KEYS
from mimicry.quieting import quieten
from mimicry.regimes.job import ConversionJob
from mimicry.regimes.parts import Parts
from mimicry.regimes.stage import chooses
from mimicry.reporting.tables import markdown_table
from mimicry.training.metrics import build_scores

ROOT = Path(__file__).resolve().parent.parent

# Heads that get softmax back, those of the largest divergence first.
WORST = 6


@torch.inference_mode()
def held_out_score(model: nn.Module, job: ConversionJob) -> float:
    """The task's primary score in percent, on the held-out rows."""
    assert job.data is not None
    assert job.batches is not None
    scores = build_scores(job.data.metrics, job.data.num_labels)
    for batch in job.batches.measuring(job.batches.held_out):
        scores.update(model, batch)
    return 100 * float(scores.compute()[job.data.metrics[0]])


def distilled_job(overrides: Sequence[str], folder: Path) -> ConversionJob:
    """The configured job, run until its maps are distilled."""
    # Where the config finds experiments/, as run.py tells it.
    os.environ.setdefault("MIMICRY_ROOT", str(ROOT))
    with initialize_config_dir(str(ROOT / "conf"), version_base="1.3"):
        plain: Any = OmegaConf.to_container(compose("config", list(overrides)), resolve=True)
    quieten()
    parts = Parts(
        regime=build(plain["regime"]),
        task=build(plain["task"]),
        optimizer=build(plain["optimizer"]),
        scheduler=build(plain["scheduler"]),
        analysis=build(plain["analysis"]),
        attention=build(plain["attn"]),
        checkpoint=build(plain["model"]),
        maps_corpus=plain["maps_corpus"] and build(plain["maps_corpus"]),
        seed=plain["seed"],
    )
    parts.check()
    if not chooses(parts.regime):
        raise ValueError("one stage must have several epochs or learning_rate, or no rows are held out to measure on")
    trainer = functools.partial(_trainer, build(plain["trainer"]), folder)
    key = {name: plain[name] for name in TEACHER_KEYS} | {"teach": plain["regime"].get("teach")}
    job = ConversionJob(parts, trainer, cache_root() / "teachers", key, True, folder, checkpoint_minutes=60.0)
    for result in job.run():
        if result.state == "distilled":
            return job
    raise ValueError(f"regime.distill.epochs must be >= 1 and attn must learn its maps, got {' '.join(overrides)}")


def _trainer(factory: Any, folder: Path, stage: str, max_epochs: int, callbacks: list[Any]) -> Any:
    return factory(
        max_epochs=max_epochs,
        callbacks=callbacks,
        default_root_dir=folder,
        logger=False,
        enable_progress_bar=False,
        enable_checkpointing=bool(callbacks),
    )


def restored_scores(job: ConversionJob, heads: Sequence[HeadFigures]) -> list[tuple[str, float]]:
    """What keeps softmax, and the held-out score then: nothing, a layer, one of the worst heads, the best two."""
    teacher, student = job.teacher, job.student
    assert teacher is not None
    assert student is not None

    def score(kept: Mapping[int, Sequence[int]]) -> float:
        return held_out_score(with_softmax(student, teacher, kept), job)

    depth, width = 1 + max(head.layer for head in heads), 1 + max(head.head for head in heads)
    rows = [("nothing", score({}))]
    rows += [(f"layer {layer}, {width} heads", score({layer: range(width)})) for layer in range(depth)]
    worst = sorted(heads, key=lambda head: head.kl, reverse=True)[:WORST]
    singly = {(head.layer, head.head): score({head.layer: [head.head]}) for head in worst}
    rows += [(f"layer {layer}, head {head}", value) for (layer, head), value in singly.items()]
    first, second = sorted(singly, key=singly.__getitem__, reverse=True)[:2]
    kept: dict[int, list[int]] = {}
    for layer, head in (first, second):
        kept.setdefault(layer, []).append(head)
    rows.append((f"layer {first[0]}, head {first[1]} and layer {second[0]}, head {second[1]}", score(kept)))
    return [*rows, ("everything (the teacher)", held_out_score(teacher, job))]


def report(job: ConversionJob, overrides: Sequence[str], save: Path | None) -> None:
    """Prints two tables, and writes them and every head's figures where asked."""
    assert job.data is not None
    assert job.batches is not None
    assert job.teacher is not None
    assert job.student is not None
    heads = head_figures(job.teacher, job.student, job.batches, set(job.processor.all_special_ids))
    shown = sorted(heads, key=lambda head: head.kl, reverse=True)[: 2 * WORST]
    header = ["layer", "head", "KL, teacher's q and k", "KL, own path", "teacher's weight on the same token elsewhere"]
    lines = [[str(h.layer), str(h.head), f"{h.kl:.3f}", f"{h.kl_own:.3f}", f"{h.same:.2f}"] for h in shown]
    scores = [[kept, f"{score:.1f}"] for kept, score in restored_scores(job, heads)]
    command = " ".join(override for override in overrides if not override.startswith(("task.root", "logger")))
    markdown = (
        f"`{command}`, distilled, not recovered; {len(job.batches.held_out)} held-out training rows.\n\n"
        f"The {len(shown)} heads of {len(heads)} that diverge most, in nats:\n\n{markdown_table([header, *lines])}\n"
        f"Held-out {job.data.metrics[0]} (%) when something keeps softmax:\n\n"
        f"{markdown_table([['keeps softmax', 'score'], *scores])}"
    )
    Console().print(markdown, markup=False, soft_wrap=True)
    if save is None:
        return
    save.mkdir(parents=True, exist_ok=True)
    (save / "table.md").write_text(markdown, encoding="utf-8")
    with (save / "table.csv").open("w", encoding="utf-8", newline="") as file:
        writer = csv.DictWriter(file, [field.name for field in fields(HeadFigures)], lineterminator="\n")
        writer.writeheader()
        for head in heads:
            writer.writerow({name: f"{x:.4f}" if isinstance(x, float) else x for name, x in asdict(head).items()})


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("overrides", nargs="+", help="options of run.py; of a sweep, name what it sweeps over")
    parser.add_argument("--save", type=Path, help="folder for table.md and table.csv")
    options = parser.parse_args()
    set_up_logging()
    with tempfile.TemporaryDirectory() as folder:
        report(distilled_job(options.overrides, Path(folder)), options.overrides, options.save)


if __name__ == "__main__":
    main()
