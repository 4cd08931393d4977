"""What one conversion is built from, and the checks before it starts."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from mimicry.attention import Attention, AttentionDims
from mimicry.conversion.checkpoint import Checkpoint
from mimicry.conversion.image_checkpoint import ImageCheckpoint
from mimicry.conversion.language_checkpoint import LanguageCheckpoint, check_tokenizer_fits
from mimicry.data.task import Task, TaskData
from mimicry.data.tokenizers import check_tokenizer_source, load_tokenizer
from mimicry.models.native import NativeDecoder, NativeEncoder, NativeLanguageModel
from mimicry.regimes.finetuned import FinetunedConversion
from mimicry.regimes.stage import Regime
from mimicry.training.attention_analysis import AnalysisSettings
from mimicry.training.metrics import LIKELIHOODS, build_scores

# Of models whose tokens see only those before them.
CAUSAL = ("language", "tokens")


@dataclass(frozen=True)
class Parts:
    """What the config builds: one field per group, `seed`, and the trainer with its loggers and callbacks."""

    regime: Regime
    attention: Callable[..., Attention]
    checkpoint: Checkpoint | ImageCheckpoint | LanguageCheckpoint | NativeDecoder | NativeEncoder | NativeLanguageModel
    task: Task
    maps_corpus: Task | None
    optimizer: Callable[..., Any]
    scheduler: Callable[..., Any]
    analysis: AnalysisSettings
    seed: int

    def check(self) -> None:
        """Refuses whatever can be refused before anything is downloaded or trained; ValueError, one line."""
        # Building a schedule runs every range check of the scheduler.
        optimizer = self.optimizer([nn.Parameter(torch.zeros(1))], lr=1.0)
        self.scheduler(optimizer, total_steps=10)
        self._check_teaching()
        for option, task in (("task", self.task), ("maps_corpus", self.maps_corpus)):
            if task is None or task.modality == self.checkpoint.modality:
                continue
            if option == "task" or not self.packs_corpus:
                raise ValueError(
                    f"{option} must be of the model's kind, {self.checkpoint.modality} ({self.checkpoint.name}), "
                    f"got {task.modality} ({task.name})"
                )
        self.check_length()
        if self.analysis.sentence is not None and self.checkpoint.modality == "image":
            raise ValueError(f"analysis.sentence needs a text model, got {self.checkpoint.name}")
        distill = self.regime.grids.get("distill")
        if self.maps_corpus is not None and not (distill and distill.candidates):
            raise ValueError("maps_corpus needs regime.distill.epochs >= 1, got 0")
        self._check_checkpoint()
        self.task.check()
        build_scores(self.task.metrics, self.task.num_labels)
        if self.maps_corpus is not None:
            self.maps_corpus.check()

    @property
    def max_length(self) -> int | None:
        """Tokens of the longest row; models on the hub know it once they are loaded, new ones take the task's."""
        return _row_length(self.checkpoint, self.task)

    @property
    def packs_corpus(self) -> bool:
        """Whether the maps of a classifier of texts learn on running text, which is cut into rows for it."""
        corpus = self.maps_corpus
        if corpus is None or (self.checkpoint.modality, corpus.modality) != ("text", "language"):
            return False
        # What is scored by texts that a model writes has rows of another shape.
        return set(corpus.metrics) <= set(LIKELIHOODS)

    def load_model(self, data: TaskData) -> tuple[nn.Module, Any]:
        """The model for these data as it starts, and its tokenizer or image processor if it has one."""
        if isinstance(self.checkpoint, LanguageCheckpoint):
            return self.checkpoint.load()
        if isinstance(self.checkpoint, NativeDecoder | NativeEncoder):
            sizes = (self.task.vocab_size, self.task.max_length, data.num_labels, getattr(self.task, "towers", 1))
            return self.checkpoint.build(*sizes, self.attention), None
        if isinstance(self.checkpoint, NativeLanguageModel):
            source, vocab_size = self.checkpoint.tokenizer, self.checkpoint.vocab_size
            tokenizer = load_tokenizer(source, vocab_size, data.train)
            check_tokenizer_fits(source, tokenizer, vocab_size, option="model.tokenizer")
            return self.checkpoint.build(self.attention), tokenizer
        return self.checkpoint.load(data.num_labels, data.label_names)

    def _check_teaching(self) -> None:
        """A classifier needs a head that knows the task: finetuned here, or a finished donor's."""
        if isinstance(self.regime, FinetunedConversion) and not (
            self.regime.teach.candidates or self.checkpoint.teacher
        ):
            raise ValueError("regime.teach.epochs must be >= 1 unless model.teacher names a finetuned model, got 0")

    def _check_checkpoint(self) -> None:
        if isinstance(self.checkpoint, Checkpoint | ImageCheckpoint):
            # Looked up for what it refuses.
            self.checkpoint.known().of(self.task.name)
        if isinstance(self.checkpoint, NativeLanguageModel):
            check_tokenizer_source(self.checkpoint.tokenizer, self.checkpoint.vocab_size)
            if written := sorted(set(self.task.metrics) - set(LIKELIHOODS)):
                raise ValueError(
                    f"task must be scored by likelihood alone for a model from scratch, which writes no texts, "
                    f"got {self.task.name} with {written[0]}"
                )
        elif not isinstance(self.checkpoint, NativeDecoder | NativeEncoder):
            self.checkpoint.check()

    def check_length(self) -> None:
        """Refuses attention that is too short for the model; a model on the hub knows its length once it is loaded."""
        # Building one tiny layer runs every range check of the variant.
        causal = self.checkpoint.modality in CAUSAL
        attention = self.attention(dims=AttentionDims(num_heads=1, head_dim=8, causal=causal))
        length = self.max_length
        if attention.max_length is not None and length is not None and attention.max_length < length:
            raise ValueError(
                f"attn: its max_length must be >= {length}, the tokens of a row, got {attention.max_length}"
            )
        stride = getattr(self.task, "stride", None)
        if stride is not None and length is not None and stride >= length:
            raise ValueError(f"task.stride must be < {length}, the tokens of a row, got {stride}")
        longest = max(self.analysis.full.lengths.tokens, default=0) if self.analysis.full else 0
        if attention.max_length is not None and attention.max_length < longest:
            raise ValueError(
                f"attn: its max_length must be >= {longest}, of analysis.full.lengths, got {attention.max_length}"
            )


def build_parts(build: Callable[..., Any], plain: dict[str, Any]) -> Parts:
    """What a resolved config describes; `build` makes an object of a plain config with `_target_` and its path."""
    checkpoint, task = build(plain["model"], "model"), build(plain["task"], "task")
    return Parts(
        regime=build(plain["regime"], "regime"),
        attention=build(_fitted(plain["attn"], checkpoint, task)),
        checkpoint=checkpoint,
        task=task,
        maps_corpus=None if plain["maps_corpus"] is None else build(plain["maps_corpus"], "maps_corpus"),
        optimizer=build(plain["optimizer"], "optimizer"),
        scheduler=build(plain["scheduler"], "scheduler"),
        analysis=build(plain["analysis"], "analysis"),
        seed=plain["seed"],
    )


def _row_length(checkpoint: Any, task: Task) -> int | None:
    length: int | None = (task if isinstance(checkpoint, NativeDecoder | NativeEncoder) else checkpoint).max_length
    return length


def _fitted(attn: dict[str, Any], checkpoint: Any, task: Task) -> dict[str, Any]:
    """The attention's config with the tokens of a row for a feature map that leaves its `max_length` to the run.

    Patches of images keep the map's own length: how far apart they are is not the distance of their numbers.
    """
    # What fits no model of this kind has no length, and is refused soon.
    known = checkpoint.modality != "image" and task.modality == checkpoint.modality
    length = _row_length(checkpoint, task) if known else None
    feature_map = attn.get("feature_map")
    if length is None or not isinstance(feature_map, dict) or feature_map.get("max_length", length) is not None:
        return attn
    # The token whose state is pooled stands before the row's own.
    pooled = isinstance(checkpoint, NativeEncoder) and checkpoint.sizes.pooling == "cls"
    return attn | {"feature_map": feature_map | {"max_length": length + pooled}}
