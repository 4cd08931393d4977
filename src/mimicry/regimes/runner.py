"""Runs the stages of a regime: trains, measures, and keeps the finetuned teacher for other variants."""

import logging
import time
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import lightning as L
from safetensors.torch import save_model
from torch import nn
from torch.utils.data import DataLoader

from mimicry.attention.capture import attention_layers
from mimicry.conversion import canonicalise
from mimicry.data.batches import Rows, TaskBatches
from mimicry.locks import held
from mimicry.ranks import agreed
from mimicry.regimes.progress import is_kept, keep, take
from mimicry.regimes.selection import train_best
from mimicry.regimes.stage import Stage
from mimicry.regimes.trial import Trial, describe
from mimicry.training.attention_analysis import AnalysisSettings, AttentionSummary, analyse_state
from mimicry.training.budget import Budget
from mimicry.training.metrics import higher_is_better
from mimicry.training.resuming import BestEpoch, StageCheckpoint
from mimicry.training.task import TaskModule
from mimicry.training.throughput import LossCurve, Throughput

log = logging.getLogger(__name__)

# Weights after the last step, where those of the best epoch are kept.
LAST = "last.safetensors"


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
    training was an earlier run's. `analysis_s` are the seconds that measuring the attention took. Where an earlier
    epoch than the last was the best, and its weights are measured, `last_weights` is a file with those of the last.
    """

    state: str
    scores: tuple[Score, ...]
    attention: AttentionSummary
    trials: tuple[Trial, ...]
    reused: bool
    model: nn.Module
    analysis_s: float
    last_weights: Path | None = None


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
        analysis: what is measured about attention, and over how many rows, taken in whole batches.
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
    analysis: AnalysisSettings
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
            began = time.perf_counter()
            measured = self._attention(teacher, model, rows, self.analysis)
            analysis_s = time.perf_counter() - began
            last = self._last_weights(stage, trials)
            yield StateResult(stage.state, scores, measured, trials, reused, model, analysis_s, last)
            # What the next stage draws as it is built, such as adapters, depends on nothing that was skipped or reused.
            L.seed_everything(self.seed, verbose=False)

    def _fit(self, stage: Stage, budget: Budget) -> Trial:
        assert stage.module is not None
        L.seed_everything(self.seed, verbose=False)
        loader = self.batches.training(stage.name, budget.batch_size, budget.max_rows)
        name = _candidate_name(stage, budget)
        folder = self.progress / name
        checkpoint = StageCheckpoint(folder, self.checkpoint_minutes, self.seed, loader)
        module = stage.module(learning_rate=budget.learning_rate)
        tokens = self.batches.tokens(loader)
        flops = self._flops_per_token(stage.model, loader)
        speed, losses = Throughput(flops), LossCurve()
        callbacks, held_out = [checkpoint, speed, losses], None
        if stage.patience is not None:
            best = BestEpoch(folder, self.metrics[0], stage.patience)
            callbacks, held_out = [*callbacks, best], self.batches.measuring(self.batches.held_out)
        trainer = self.trainer(name, max_epochs=budget.epochs, callbacks=callbacks)
        interrupted = agreed(checkpoint.last)
        if interrupted is not None:
            log.info("%s: goes on from the checkpoint of the interrupted attempt", stage.name)
        trainer.fit(module, train_dataloaders=loader, val_dataloaders=held_out, ckpt_path=interrupted)
        wall_s, epochs = checkpoint.wall_s, trainer.current_epoch
        best_epoch = None
        if stage.patience is not None:
            # One that had stopped before an interruption ends without another.
            epochs = best.last
            save_model(stage.model, str(folder / LAST))
            best_epoch = best.take(module)
            log.info("%s: epoch %d of %d was the best and is kept", stage.name, best_epoch, epochs)
        # Of whole epochs all tokens; of a part of one, which the trainer's own options may ask for, its share.
        tokens_per_s = tokens * losses.batches / len(loader) / (wall_s - speed.validating_s)
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
            loss=losses.curve,
            held_out_scores=losses.scores,
        )

    def _last_weights(self, stage: Stage, trials: tuple[Trial, ...]) -> Path | None:
        """Of the chosen candidate; None where they are the model's own."""
        for budget, trial in zip(stage.candidates, trials, strict=bool(trials)):
            if trial.chosen and trial.best_epoch not in (None, trial.epochs):
                return self.progress / _candidate_name(stage, budget) / LAST
        return None

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
            # What is not asked for here has no say in the choice.
            settings = replace(self.analysis, full=None)
            return -self._attention(teacher, stage.model, self.batches.held_out, settings).kl
        score = self._split_scores(stage, self.batches.held_out)[self.metrics[0]]
        return score if higher_is_better(self.metrics[0]) else -score

    def _reached(self, stage: Stage, teacher: nn.Module | None) -> tuple[tuple[Trial, ...], bool]:
        """Trains the stage, or takes what an earlier run or an interrupted attempt at this one has trained."""
        if not stage.candidates:
            return (), False
        if stage.name == "teach":
            # Jobs that start together need the same teacher: one trains it, the others wait.
            with held(self.teacher_folder.with_suffix(".lock"), "finetunes the same teacher"):
                if agreed(self.teacher_known):
                    log.info("teacher taken from an earlier run with the same settings (rerun=true trains it again)")
                    return take(self.teacher_folder, stage.model), True
                return self._trained(stage, teacher, self.teacher_folder), False
        folder = self.progress / stage.name
        if agreed(is_kept(folder)):
            log.info("%s: taken from the interrupted attempt at this run (rerun=true trains it again)", stage.name)
            return take(folder, stage.model), False
        return self._trained(stage, teacher, folder), False

    def _trained(self, stage: Stage, teacher: nn.Module | None, folder: Path) -> tuple[Trial, ...]:
        candidates = self.progress / f"{stage.name} candidates"
        trials = train_best(stage, self._fit, lambda trained: self._judge(trained, teacher), candidates)
        keep(folder, stage.model, trials)
        return trials

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

    def _attention(
        self, teacher: nn.Module, model: nn.Module, rows: Rows, settings: AnalysisSettings
    ) -> AttentionSummary:
        device = self.trainer("measure attention", max_epochs=1, callbacks=[]).strategy.root_device
        return analyse_state(teacher, model, self.batches, rows, settings, device)


def _candidate_name(stage: Stage, budget: Budget) -> str:
    """Each candidate has curves and checkpoints of its own."""
    return f"{stage.name} {budget.epochs} at {budget.learning_rate:g}" if len(stage.candidates) > 1 else stage.name
