"""Runs the stages of a regime: trains, measures, and keeps the finetuned teacher for other variants."""

import json
import logging
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path

import lightning as L
from safetensors.torch import load_model, save_model
from torch import nn

from mimicry.attention.capture import attention_layers
from mimicry.conversion import canonicalise
from mimicry.data.text import TextDataModule
from mimicry.regimes.stage import Stage
from mimicry.training.attention_analysis import AttentionSummary, summarise_attention
from mimicry.training.budget import Budget
from mimicry.training.task import TaskModule

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Cost:
    """What training a stage took: seconds, optimizer steps, tokens per second (None without training)."""

    wall_s: float
    steps: int
    tokens_per_s: float | None
    reused: bool = False


@dataclass(frozen=True)
class StateResult:
    """One measured state: validation scores by metric name, attention, cost, and the model run through our seam."""

    state: str
    scores: dict[str, float]
    attention: AttentionSummary
    cost: Cost
    model: nn.Module


@dataclass(frozen=True)
class Runner:
    """Trains and measures stages, each with a fresh trainer and the same seed.

    Args:
        loaders: builds the batches of a budget; with None, those for measuring.
        trainer: builds a Lightning trainer; called with the stage's name and `max_epochs`.
        task_module: wraps a model for measuring its scores.
        metrics: names of the scores, the task's primary one first.
        seed: reset before every stage, so that a stage draws the same numbers whatever ran before it.
        analysis_rows: validation rows over which attention is compared, at most, taken in whole batches.
        teacher_folder: where the finetuned teacher of exactly this configuration is kept; runs that differ only in
            their attention share it.
        reuse_teacher: False finetunes it again even so.
    """

    loaders: Callable[[Budget | None], TextDataModule]
    trainer: Callable[..., L.Trainer]
    task_module: Callable[..., TaskModule]
    metrics: tuple[str, ...]
    seed: int
    analysis_rows: int
    teacher_folder: Path
    reuse_teacher: bool

    @property
    def teacher_known(self) -> bool:
        """Whether the teacher of this very configuration is taken from an earlier run."""
        return self.reuse_teacher and (self.teacher_folder / "cost.json").is_file()

    def run(self, stages: Iterator[Stage]) -> Iterator[StateResult]:
        """Yields each state as soon as it is measured; the first one is the teacher."""
        teacher: nn.Module | None = None
        for stage in stages:
            log.info("%s: %s", stage.name, stage.about)
            L.seed_everything(self.seed, verbose=False)
            cost = self._teach(stage) if stage.name == "teach" else self._train(stage)
            teacher = teacher or canonicalise(stage.model).eval()
            # A softmax model as the host library runs it has no attention of ours; its canonicalised copy has.
            model = stage.model if attention_layers(stage.model) else teacher
            yield StateResult(stage.state, self._scores(stage), self._attention(teacher, model), cost, model)

    def _train(self, stage: Stage) -> Cost:
        if stage.module is None or stage.budget is None:
            return Cost(0.0, 0, None)
        trainer = self.trainer(stage.name, max_epochs=stage.budget.epochs)
        began = time.perf_counter()
        trainer.fit(stage.module, train_dataloaders=self.loaders(stage.budget).train_dataloader())
        wall_s = time.perf_counter() - began
        return Cost(wall_s, trainer.global_step, int(stage.module.tokens_seen) / wall_s)

    def _teach(self, stage: Stage) -> Cost:
        weights, note = self.teacher_folder / "model.safetensors", self.teacher_folder / "cost.json"
        if self.teacher_known:
            load_model(stage.model, weights)
            log.info("teacher taken from an earlier run with the same settings (rerun=true trains it again)")
            return Cost(**json.loads(note.read_text(encoding="utf-8")) | {"reused": True})
        cost = self._train(stage)
        self.teacher_folder.mkdir(parents=True, exist_ok=True)
        for path, save in (
            (weights, lambda to: save_model(stage.model, str(to))),
            (note, lambda to: to.write_text(json.dumps(asdict(cost)), encoding="utf-8")),
        ):
            # Written under another name and moved: a concurrent or killed run never leaves half a teacher.
            partial = path.with_name(f"{path.name}.{time.time_ns()}")
            save(partial)
            partial.replace(path)
        return cost

    def _scores(self, stage: Stage) -> dict[str, float]:
        trainer = self.trainer(f"measure {stage.state}", max_epochs=1)
        module = self.task_module(stage.model, stage="validate", learning_rate=1.0)
        (scores,) = trainer.validate(module, self.loaders(None).val_dataloader(), verbose=False)
        # In the task's order, its primary metric first; a metric collection sorts by name.
        return {name: scores[f"val/{name}"] for name in self.metrics}

    def _attention(self, teacher: nn.Module, model: nn.Module) -> AttentionSummary:
        loader = self.loaders(None).val_dataloader()
        batches = max(1, self.analysis_rows // (loader.batch_size or 1))
        # Evenly over the loader, which is sorted by length: its first batches alone would be the shortest texts.
        stride = max(1, len(loader) // batches)
        chosen = (batch for index, batch in enumerate(loader) if index % stride == 0)
        return summarise_attention(teacher, model.eval(), chosen)
