"""One conversion from built parts: data, model, stages."""

import functools
import hashlib
import json
import logging
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import lightning as L
import torch
from torch import nn
from torch.utils.data import Subset

from mimicry.attention import AttentionDims
from mimicry.conversion.checkpoint import Checkpoint
from mimicry.conversion.image_checkpoint import ImageCheckpoint
from mimicry.data.batches import MEASURING_TOKENS, Encoder, Rows, TaskBatches
from mimicry.data.packing import pack
from mimicry.data.task import TaskData, draw_indices
from mimicry.regimes.finetuned import FinetunedConversion
from mimicry.regimes.forecast import forecast_seconds
from mimicry.regimes.maps import AttentionMaps, attention_maps
from mimicry.regimes.parts import CAUSAL, Parts
from mimicry.regimes.progress import digest
from mimicry.regimes.runner import Runner, Score, StateResult
from mimicry.regimes.stage import chooses
from mimicry.training.budget import BudgetGrid
from mimicry.training.distillation import DistillationModule
from mimicry.training.metrics import build_scores
from mimicry.training.task import TaskModule

log = logging.getLogger(__name__)

# A language model has an output for each word of its vocabulary at each token: 0.4 GB at 50,000 words.
LANGUAGE_TOKENS = 2048


class ConversionJob:
    """Runs the regime once; `processor`, `teacher` and `student` are there after `run` is exhausted.

    Args:
        parts: built from the config.
        trainer: builds a Lightning trainer for a stage; called with its name and `max_epochs`.
        teachers: folder that keeps finetuned teachers for other variants.
        teacher_key: whatever decides how the teacher comes out, besides the rows it sees.
        reuse_teacher: False finetunes it again even when it is kept there.
        progress: folder in which an interrupted run leaves what it has trained.
        checkpoint_minutes: between two checkpoints of a running stage, > 0.
    """

    def __init__(
        self,
        parts: Parts,
        trainer: Callable[..., L.Trainer],
        teachers: Path,
        teacher_key: dict[str, Any],
        reuse_teacher: bool,
        progress: Path,
        checkpoint_minutes: float,
    ) -> None:
        self.parts = parts
        self.regime = parts.regime
        if isinstance(parts.regime, FinetunedConversion) and parts.checkpoint.teacher:
            # A finished donor skips the first stage.
            self.regime = replace(parts.regime, teach=BudgetGrid(epochs=0, learning_rate=1.0, batch_size=1))
        self.trainer = trainer
        self.teachers = teachers
        self.teacher_key = teacher_key
        self.reuse_teacher = reuse_teacher
        self.progress = progress
        self.checkpoint_minutes = checkpoint_minutes
        self.start: str | None = None
        self.data: TaskData | None = None
        self.corpus: TaskData | None = None
        self.batches: TaskBatches | None = None
        self.processor: Any = None
        self.teacher: nn.Module | None = None
        self.student: nn.Module | None = None

    def prepare(self) -> tuple[nn.Module, TaskData, TaskBatches]:
        """Loads rows, then the model, then encodes the rows for it."""
        parts = self.parts
        data = self.data = parts.task.load()
        self.corpus = None if parts.maps_corpus is None else parts.maps_corpus.load()
        L.seed_everything(parts.seed, verbose=False)
        model, self.processor = parts.load_model(data)
        if (teach := self.regime.grids.get("teach")) and teach.candidates:
            self.start = digest(model)
        # Known by now: an image model's length is read from its config, which `load` has fetched.
        assert parts.max_length is not None
        parts.check_length()
        if parts.analysis.full is not None:
            parts.analysis.full.lengths.check(model)
        encoder = parts.task.encoder(self.processor, parts.max_length)
        # Texts may be scored with more context than they are trained with.
        scoring = getattr(parts.task, "scoring_encoder", parts.task.encoder)(self.processor, parts.max_length)
        rows = encoder.encode(data.train)
        held_out = set(self._held_out(len(rows)))
        train = Subset(rows, [index for index in range(len(rows)) if index not in held_out])
        batches = self.batches = TaskBatches(
            encoder=encoder,
            train=train,
            distill=train if self.corpus is None else self._corpus_rows(encoder, self.corpus),
            held_out=Subset(rows, sorted(held_out)),
            validation={split: scoring.encode(examples) for split, examples in data.validation.items()},
            seed=parts.seed,
            measuring_tokens=LANGUAGE_TOKENS if parts.checkpoint.modality in CAUSAL else MEASURING_TOKENS,
        )
        return model, data, batches

    def run(self) -> Iterator[StateResult]:
        """Yields every state of the model as soon as it is measured."""
        parts = self.parts
        model, data, batches = self.prepare()
        new_tokens = getattr(parts.task, "summary_tokens", 1)
        scores = build_scores(data.metrics, data.num_labels, self.processor, new_tokens)
        trains = {"optimizer": parts.optimizer, "scheduler": parts.scheduler}
        task_module = functools.partial(TaskModule, scores=scores, **trains)
        runner = Runner(
            batches=batches,
            trainer=self.trainer,
            task_module=task_module,
            metrics=data.metrics,
            check_teacher=self._check_teacher,
            seed=parts.seed,
            analysis=parts.analysis,
            teacher_folder=self.teacher_folder(data),
            reuse_teacher=self.reuse_teacher,
            progress=self.progress,
            checkpoint_minutes=self.checkpoint_minutes,
        )
        skipped = [] if self._learns_maps() else ["distill"]
        skipped += ["teach"] if runner.teacher_known else []
        seconds = forecast_seconds(model, self.regime, batches, skipped)
        log.info("Expected time: about %.0f min (one batch of each stage was timed)", max(1.0, seconds / 60))
        stages = self.regime.stages(
            model, parts.attention, task_module, functools.partial(DistillationModule, **trains)
        )
        for result in runner.run(stages):
            if result.state == "teacher":
                self.teacher = result.model
            else:
                self.student = result.model
            yield result

    def data_summary(self) -> dict[str, Any]:
        """What was trained and scored on, for the record."""
        data, batches = self.data, self.batches
        assert data is not None
        assert batches is not None
        corpus = self.corpus
        return {
            "parameters": None if self.student is None else sum(p.numel() for p in self.student.parameters()),
            "sources": data.sources,
            "fingerprint": data.fingerprint,
            "rows": {
                "train": len(batches.train),
                "held_out": len(batches.held_out),
                **{split: len(rows) for split, rows in batches.validation.items()},
            },
            "available": dict(data.available),
            "missing": list(data.missing),
            "maps_corpus": None
            if corpus is None
            else {
                "name": corpus.name,
                "source": corpus.sources["train"],
                "fingerprint": corpus.fingerprint,
                "rows": len(batches.distill),
            },
        }

    def _learns_maps(self) -> bool:
        # Random maps must not draw other numbers because of this look at them.
        with torch.random.fork_rng():
            return any(True for _ in self.parts.attention(dims=AttentionDims(1, 8, causal=False)).parameters())

    def _corpus_rows(self, encoder: Encoder, corpus: TaskData) -> Rows:
        if not self.parts.packs_corpus:
            return encoder.encode(corpus.train)
        assert self.parts.max_length is not None
        return pack(self.processor, corpus.train, self.parts.max_length)

    def _held_out(self, rows: int) -> list[int]:
        """Positions of the training rows to choose settings on; the same for every seed and variant."""
        if not chooses(self.regime):
            return []
        holdout = self.regime.holdout_rows
        if holdout >= rows:
            raise ValueError(f"regime.holdout_rows must be < the {rows} training rows, got {holdout}")
        return draw_indices(rows, holdout)

    def _check_teacher(self, scores: tuple[Score, ...]) -> None:
        primary = scores[0]
        if isinstance(self.parts.checkpoint, Checkpoint | ImageCheckpoint):
            self.parts.checkpoint.check_score(self.parts.task.name, primary.metric, primary.value)

    def attention_maps(self) -> AttentionMaps:
        """Weights of both models on the configured sentence, or on a validation row of readable length."""
        assert self.batches is not None
        assert self.student is not None
        return attention_maps(self.batches, self.teacher, self.student, self.parts.analysis.sentence)

    def teacher_folder(self, data: TaskData) -> Path:
        """Where the finetuned teacher of these settings, weights and rows is kept, once there is one."""
        holdout = chooses(self.regime) and self.regime.holdout_rows
        key = [self.teacher_key, self.start, data.fingerprint, holdout, torch.__version__]
        text = json.dumps(key, sort_keys=True)
        return self.teachers / hashlib.sha256(text.encode()).hexdigest()[:16]
