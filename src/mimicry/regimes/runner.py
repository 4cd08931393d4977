"""Runs the stages of a regime: trains, measures, and keeps the finetuned teacher for other variants."""

import logging
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import lightning as L
from torch import Tensor, nn
from torch.utils.data import DataLoader

from mimicry.attention.capture import attention_layers
from mimicry.conversion import canonicalise
from mimicry.data.batches import Rows, TaskBatches
from mimicry.regimes.progress import is_kept, keep, take
from mimicry.regimes.selection import Trial, describe, train_best
from mimicry.regimes.stage import Stage
from mimicry.training.attention_analysis import AttentionSummary, summarise_attention
from mimicry.training.budget import Budget
from mimicry.training.metrics import higher_is_better
from mimicry.training.resuming import BestEpoch, StageCheckpoint
from mimicry.training.task import TaskModule
from mimicry.training.throughput import LossCurve, Throughput

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Score:
    """One score of the task on one split of its rows."""

    name: str
    value: float
    metric: str
    split: str


@dataclass(frozen=True)
class StateResult:
    """One measured state: scores with the primary one first, attention, how it was trained, and the model itself.

    The model runs through our seam. `trials` is empty for a state reached without training; `reused` says that the
    training was an earlier run's.
    """

    state: str
    scores: tuple[Score, ...]
    attention: AttentionSummary
    trials: tuple[Trial, ...]
    reused: bool
    model: nn.Module


@dataclass(frozen=True)
class Runner:
    """Trains and measures stages, each with a fresh trainer and the same seed.

    Args:
        batches: the task's rows.
        trainer: builds a Lightning trainer; called with the stage's name, `max_epochs` and further `callbacks`.
        task_module: wraps a model for measuring its scores.
        metrics: names of the scores, the task's primary one first.
        check_teacher: called with the teacher's scores before anything is converted; raises to refuse it.
        seed: reset before every training, so that a stage draws the same numbers whatever ran before it.
        analysis_rows: rows over which attention is compared, at most, taken in whole batches.
        teacher_folder: where the finetuned teacher of exactly this configuration is kept; runs that differ only in
            their attention share it.
        reuse_teacher: False finetunes it again even so.
        progress: folder in which an interrupted run leaves the stages it has trained and the last checkpoint.
        checkpoint_minutes: between two checkpoints of a running stage, > 0.
    """

    batches: TaskBatches
    trainer: Callable[..., L.Trainer]
    task_module: Callable[..., TaskModule]
    metrics: tuple[str, ...]
    check_teacher: Callable[[tuple[Score, ...]], None]
    seed: int
    analysis_rows: int
    teacher_folder: Path
    reuse_teacher: bool
    progress: Path
    checkpoint_minutes: float

    @property
    def teacher_known(self) -> bool:
        """Whether the teacher of this very configuration is taken from an earlier run."""
        return self.reuse_teacher and is_kept(self.teacher_folder)

    def run(self, stages: Iterator[Stage]) -> Iterator[StateResult]:
        """Yields each state as soon as it is measured; the first one is the teacher."""
        teacher: nn.Module | None = None
        for stage in stages:
            log.info("%s: %s", stage.name, stage.about)
            trials, reused = self._reached(stage, teacher)
            for trial in trials:
                if trial.chosen:
                    log.info("%s: %s", stage.name, describe(trial))
            scores = self._scores(stage)
            if teacher is None:
                self.check_teacher(scores)
                teacher = stage.model if attention_layers(stage.model) else canonicalise(stage.model).eval()
            # A softmax model as the host library runs it has no attention of ours; its canonicalised copy has.
            model = stage.model if attention_layers(stage.model) else teacher
            rows = next(iter(self.batches.validation.values()))
            yield StateResult(stage.state, scores, self._attention(teacher, model, rows), trials, reused, model)

    def _fit(self, stage: Stage, budget: Budget) -> Trial:
        assert stage.module is not None
        L.seed_everything(self.seed, verbose=False)
        loader = self.batches.training(stage.name, budget.batch_size, budget.max_rows)
        # Each candidate has curves of its own.
        told = f" {budget.epochs} at {budget.learning_rate:g}" if len(stage.candidates) > 1 else ""
        folder = self.progress / f"{stage.name}{told}"
        checkpoint = StageCheckpoint(folder, self.checkpoint_minutes, self.seed, loader)
        module = stage.module(learning_rate=budget.learning_rate)
        tokens = self.batches.tokens(loader)
        flops = self._flops_per_token(stage.model, loader)
        speed, losses = Throughput(flops), LossCurve()
        callbacks, held_out = [checkpoint, speed, losses], None
        if stage.patience is not None:
            best = BestEpoch(folder, self.metrics[0], stage.patience)
            callbacks, held_out = [*callbacks, best], self.batches.measuring(self.batches.held_out)
        trainer = self.trainer(f"{stage.name}{told}", max_epochs=budget.epochs, callbacks=callbacks)
        if checkpoint.last is not None:
            log.info("%s: goes on from the checkpoint of the interrupted attempt", stage.name)
        trainer.fit(module, train_dataloaders=loader, val_dataloaders=held_out, ckpt_path=checkpoint.last)
        wall_s, epochs = checkpoint.wall_s, trainer.current_epoch
        best_epoch = None
        if stage.patience is not None:
            best_epoch = best.take(module)
            log.info("%s: epoch %d of %d was the best and is kept", stage.name, best_epoch, epochs)
        tokens_per_s = tokens * epochs / wall_s
        return Trial(
            epochs,
            budget.learning_rate,
            trainer.global_step,
            wall_s,
            tokens_per_s,
            held_out=None,
            chosen=False,
            trained_parameters=sum(p.numel() for group in trainer.optimizers[0].param_groups for p in group["params"]),
            mfu=None if flops is None or speed.peak is None else tokens_per_s * flops / speed.peak,
            peak_flops_per_s=speed.peak,
            best_epoch=best_epoch,
            curve=losses.curve,
        )

    def _flops_per_token(self, model: nn.Module, loader: DataLoader) -> float | None:
        """Mean over the tokens of a loader, forward and backward; None for models that do not count theirs."""
        if not hasattr(model, "training_flops"):
            return None
        rows, towers = self.batches.row_lengths(loader), getattr(model, "towers", 1)
        # Two sequences are counted as one that is as long as both.
        flops = sum(model.training_flops(tokens // towers) * count for tokens, count in Counter(rows).items())
        return flops / sum(rows)

    def _judge(self, stage: Stage, teacher: nn.Module | None) -> float:
        """Of a trained candidate, on the held-out rows: maps by their divergence, whole models by their score."""
        if stage.name == "distill":
            assert teacher is not None
            return -self._attention(teacher, stage.model, self.batches.held_out).kl
        score = self._split_scores(stage, self.batches.held_out)[self.metrics[0]]
        return score if higher_is_better(self.metrics[0]) else -score

    def _reached(self, stage: Stage, teacher: nn.Module | None) -> tuple[tuple[Trial, ...], bool]:
        """Trains the stage, or takes what an earlier run or an interrupted attempt at this one has trained."""
        if not stage.candidates:
            return (), False
        if stage.name == "teach":
            if self.teacher_known:
                log.info("teacher taken from an earlier run with the same settings (rerun=true trains it again)")
                return take(self.teacher_folder, stage.model), True
            folder = self.teacher_folder
        else:
            folder = self.progress / stage.name
            if is_kept(folder):
                log.info("%s: taken from the interrupted attempt at this run (rerun=true trains it again)", stage.name)
                return take(folder, stage.model), False
        trials = train_best(stage, self._fit, lambda trained: self._judge(trained, teacher))
        keep(folder, stage.model, trials)
        return trials, False

    def _scores(self, stage: Stage) -> tuple[Score, ...]:
        scores = []
        for index, (split, rows) in enumerate(self.batches.validation.items()):
            # The further splits of a task, such as MNLI's mismatched one, carry their name in that of the score.
            suffix = f"_{split.removeprefix('validation_')}" if index else ""
            values = self._split_scores(stage, rows)
            # In the task's order, its primary metric first; a metric collection sorts by name.
            scores += [Score(f"{name}{suffix}", values[name], name, split) for name in self.metrics]
        return tuple(scores)

    def _split_scores(self, stage: Stage, rows: Rows) -> dict[str, float]:
        trainer = self.trainer(f"measure {stage.state}", max_epochs=1, callbacks=[])
        module = self.task_module(stage.model, stage="validate", learning_rate=1.0)
        (scores,) = trainer.validate(module, self.batches.measuring(rows), verbose=False)
        return {name: scores[f"val/{name}"] for name in self.metrics}

    def _attention(self, teacher: nn.Module, model: nn.Module, rows: Rows) -> AttentionSummary:
        return summarise_attention(teacher, model.eval(), self._analysed(self.batches.measuring(rows)))

    def _analysed(self, loader: DataLoader) -> Iterator[dict[str, Tensor]]:
        batches = max(1, self.analysis_rows // (loader.batch_size or 1))
        # Evenly over the loader, which is sorted by length: its first batches alone would be the shortest texts.
        stride = max(1, len(loader) // batches)
        return (batch for index, batch in enumerate(loader) if index % stride == 0)
