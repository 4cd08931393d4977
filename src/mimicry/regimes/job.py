"""One conversion from built parts: checks first, then data, model, stages and the figure's weights."""

import functools
import hashlib
import json
import logging
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import lightning as L
import numpy as np
import torch
from torch import Tensor, nn

from mimicry.attention import Attention, AttentionDims
from mimicry.attention.capture import attention_layers
from mimicry.conversion.checkpoint import Checkpoint
from mimicry.data.task import Task, TaskData
from mimicry.data.text import EncodedRow, TextDataModule, encode
from mimicry.regimes.finetuned import FinetunedConversion
from mimicry.regimes.forecast import forecast_seconds
from mimicry.regimes.runner import Runner, StateResult
from mimicry.training.attention_analysis import AnalysisSettings, attention_weights
from mimicry.training.budget import Budget
from mimicry.training.distillation import DistillationModule
from mimicry.training.metrics import build_metrics
from mimicry.training.task import TaskModule

log = logging.getLogger(__name__)

# A sentence of about this many tokens fills the figure and can still be read.
FIGURE_TOKENS = 14


@dataclass(frozen=True)
class Parts:
    """What the config builds: one field per group, `seed`, and the trainer with its loggers and callbacks."""

    regime: FinetunedConversion
    attention: Callable[..., Attention]
    checkpoint: Checkpoint
    task: Task
    optimizer: Callable[..., Any]
    scheduler: Callable[..., Any]
    analysis: AnalysisSettings
    seed: int

    def check(self) -> None:
        """Refuses whatever can be refused before anything is downloaded or trained; ValueError, one line."""
        # Building one tiny layer runs every range check of the variant; building a schedule those of the scheduler.
        attention = self.attention(dims=AttentionDims(num_heads=1, head_dim=8, causal=False))
        if attention.max_length is not None and attention.max_length < self.checkpoint.max_length:
            raise ValueError(
                f"attn: its max_length must be >= model.max_length = {self.checkpoint.max_length}, "
                f"got {attention.max_length}"
            )
        optimizer = self.optimizer([nn.Parameter(torch.zeros(1))], lr=1.0)
        self.scheduler(optimizer, total_steps=10)
        if self.regime.teach.epochs == 0 and self.checkpoint.teacher is None:
            raise ValueError("regime.teach.epochs must be >= 1 unless model.teacher names a finetuned model, got 0")
        build_metrics(self.task.metrics, self.task.num_labels)
        self.checkpoint.check()
        self.task.check()


@dataclass(frozen=True)
class AttentionMaps:
    """Weights of teacher and student for one text, (layers, heads, n, n), and its tokens."""

    teacher: np.ndarray
    student: np.ndarray
    tokens: list[str]


class ConversionJob:
    """Runs the regime once; `data`, `tokenizer` and `student` are there after `run` is exhausted.

    Args:
        parts: built from the config.
        trainer: builds a Lightning trainer for a stage; called with its name and `max_epochs`.
        teachers: folder that keeps finetuned teachers for other variants.
        teacher_key: whatever decides how the teacher comes out, besides the rows it sees.
        reuse_teacher: False finetunes it again even when it is kept there.
    """

    def __init__(
        self,
        parts: Parts,
        trainer: Callable[..., L.Trainer],
        teachers: Path,
        teacher_key: dict[str, Any],
        reuse_teacher: bool,
    ) -> None:
        self.parts = parts
        self.trainer = trainer
        self.teachers = teachers
        self.teacher_key = teacher_key
        self.reuse_teacher = reuse_teacher
        self.data: TaskData | None = None
        self.tokenizer: Any = None
        self.teacher: nn.Module | None = None
        self.student: nn.Module | None = None
        self.train_rows: list[EncodedRow] = []
        self.validation_rows: list[EncodedRow] = []

    def prepare(self) -> nn.Module:
        """Loads rows, then the model; returns the model."""
        parts = self.parts
        self.data = parts.task.load()
        L.seed_everything(parts.seed, verbose=False)
        model, self.tokenizer = parts.checkpoint.load(self.data.num_labels)
        self.train_rows = encode(self.data.train, self.tokenizer, parts.checkpoint.max_length)
        self.validation_rows = encode(self.data.validation, self.tokenizer, parts.checkpoint.max_length)
        return model

    def run(self) -> Iterator[StateResult]:
        """Yields every state of the model as soon as it is measured."""
        model, parts = self.prepare(), self.parts
        assert self.data is not None
        regime = (
            replace(parts.regime, teach=replace(parts.regime.teach, epochs=0))
            if parts.checkpoint.teacher
            else parts.regime
        )
        metrics = build_metrics(self.data.metrics, self.data.num_labels)
        trains = {"optimizer": parts.optimizer, "scheduler": parts.scheduler}
        task_module = functools.partial(TaskModule, metrics=metrics, **trains)
        runner = Runner(
            loaders=self.loaders,
            trainer=self.trainer,
            task_module=task_module,
            metrics=self.data.metrics,
            seed=parts.seed,
            analysis_rows=parts.analysis.rows,
            teacher_folder=self.teachers / self._key(),
            reuse_teacher=self.reuse_teacher,
        )
        seconds = forecast_seconds(model, regime, self.loaders, runner.teacher_known)
        log.info("Expected time: about %.0f min (one batch of each stage was timed)", max(1.0, seconds / 60))
        stages = regime.stages(model, parts.attention, task_module, functools.partial(DistillationModule, **trains))
        for result in runner.run(stages):
            if result.state == "teacher":
                self.teacher = result.model
            else:
                self.student = result.model
            yield result

    def loaders(self, budget: Budget | None) -> TextDataModule:
        """Batches for a budget; None for measuring, where only validation rows are read."""
        return TextDataModule(
            self.train_rows,
            self.validation_rows,
            self.tokenizer,
            batch_size=budget.batch_size if budget else 1,
            seed=self.parts.seed,
            max_train_rows=budget.max_rows if budget else None,
        )

    def attention_maps(self) -> AttentionMaps:
        """Weights of both models on the configured sentence, or on a validation row of readable length."""
        sentence = self.parts.analysis.sentence
        inputs = (
            dict(self.tokenizer(sentence, truncation=True, max_length=self.parts.checkpoint.max_length))
            if sentence is not None
            else min(self.validation_rows, key=lambda row: abs(len(row) - FIGURE_TOKENS)).inputs
        )
        batch = {name: torch.tensor([ids]) for name, ids in inputs.items()}
        assert self.teacher is not None
        assert self.student is not None
        return AttentionMaps(
            _stacked(self.teacher, batch),
            _stacked(self.student.eval(), batch),
            self.tokenizer.convert_ids_to_tokens(inputs["input_ids"]),
        )

    def _key(self) -> str:
        assert self.data is not None
        text = json.dumps([self.teacher_key, self.data.fingerprint, torch.__version__], sort_keys=True)
        return hashlib.sha256(text.encode()).hexdigest()[:16]


def _stacked(model: nn.Module, batch: dict[str, Tensor]) -> np.ndarray:
    assert attention_layers(model)
    return torch.stack([weights[0] for weights, _ in attention_weights(model, batch).values()]).float().numpy()
