"""The model a run starts from: an embedded asset, a local folder or a hub id."""

import logging
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from mimicry import assets
from mimicry.conversion.donor import KnownScores, check_head, check_unconverted, check_weights, fit_head, read_config
from mimicry.conversion.site import adapter_of, first_position

log = logging.getLogger(__name__)

EMBEDDED = {"asset:minilm": assets.MINILM}


@dataclass(frozen=True)
class Checkpoint:
    """A sequence classifier to be built from a pretrained encoder, or one that is finetuned already.

    Args:
        path: `asset:minilm`, a local folder in Hugging Face layout, or a hub id.
        teacher: a classifier finetuned on the task (folder or hub id); it replaces finetuning here. None finetunes.
        max_length: longer texts are cut to so many tokens, >= 8.
        known_scores: of the teacher, from its card, by task: the primary metric as a fraction or correlation.
        score_tolerance: how far below its known score a teacher may score here, >= 0.

    Raises:
        ValueError: if max_length, a known score or the tolerance is out of range, or there are scores
            of no teacher.
    """

    path: str
    teacher: str | None = None
    max_length: int = 128
    known_scores: dict[str, float] | None = None
    score_tolerance: float = 0.01

    modality = "text"

    def __post_init__(self) -> None:
        if self.max_length < 8:
            raise ValueError(f"model.max_length must be >= 8, got {self.max_length}")
        # Checked at once, used when a teacher was measured.
        self.known()

    @property
    def name(self) -> str:
        """Short name for folders and tables."""
        return Path((self.teacher or self.path).removeprefix("asset:")).name

    def check(self) -> None:
        """Refuses what can be refused without a download: missing folders, files, unsupported architectures."""
        for option, source in (("model.path", self.path), ("model.teacher", self.teacher)):
            if source is None or source in EMBEDDED:
                continue
            if source.startswith("asset:"):
                raise ValueError(f"{option} must be one of {', '.join(EMBEDDED)} when embedded, got {source!r}")
            config = read_config(option, source)
            if config is not None:
                self._check_config(SimpleNamespace(**config))

    def _check_config(self, config: Any) -> None:
        """Refuses architectures without a seam or a classifier of texts, and texts longer than the model's."""
        check_unconverted(config)
        if hasattr(adapter_of(config), "SPECIAL_TOKENS"):
            raise ValueError(
                f"model: {config.model_type!r} reads images; use mimicry.conversion.image_checkpoint.ImageCheckpoint"
            )
        from transformers.models.auto.modeling_auto import MODEL_FOR_SEQUENCE_CLASSIFICATION_MAPPING_NAMES

        if config.model_type not in MODEL_FOR_SEQUENCE_CLASSIFICATION_MAPPING_NAMES:
            raise ValueError(f"model: transformers has no classifier of sequences for {config.model_type!r}")
        positions = getattr(config, "max_position_embeddings", None)
        if positions is not None and self.max_length > (usable := positions - first_position(config)):
            raise ValueError(f"model.max_length must be <= the model's {usable} positions, got {self.max_length}")

    def check_score(self, task: str, metric: str, score: float) -> None:
        """Refuses a teacher that scores below its known score; see `KnownScores.check`."""
        self.known().check(task, metric, score)

    def known(self) -> KnownScores:
        """What the teacher scores elsewhere."""
        return KnownScores(self.teacher, self.known_scores, self.score_tolerance)

    def load(self, num_labels: int, labels: tuple[str, ...] = ()) -> tuple[Any, Any]:
        """The classifier with a head of `num_labels` outputs (1 for regression), and its tokenizer.

        A new head is drawn from torch's global generator: seed it first.

        Args:
            num_labels: outputs of the head.
            labels: names of the task's classes in the order of their ids, to hold a teacher's own names against;
                nothing is compared where either has none.

        Raises:
            ValueError: no seam for the architecture, a donor whose head is for another kind of task, does not fit,
                or has the task's labels in another order, or weights that do not load.
        """
        from transformers import AutoConfig, AutoModelForSequenceClassification, AutoTokenizer

        option, source = ("model.teacher", self.teacher) if self.teacher else ("model.path", self.path)
        folder = str(assets.fetch(EMBEDDED[source])) if source in EMBEDDED else str(Path(source).expanduser())
        where = folder if Path(folder).is_dir() else source
        try:
            config = AutoConfig.from_pretrained(where)
            self._check_config(config)
            if self.teacher is not None:
                check_head(option, source, config, num_labels, labels)
            fit_head(config, num_labels)
            model, report = AutoModelForSequenceClassification.from_pretrained(
                where,
                config=config,
                output_loading_info=True,
                # A head finetuned for something else is replaced; a teacher's head was checked above.
                ignore_mismatched_sizes=self.teacher is None,
            )
            tokenizer = AutoTokenizer.from_pretrained(where)
        except (OSError, ConnectionError) as error:
            reason = str(error).strip().splitlines()[0]
            raise ValueError(f"{option}: cannot load {source!r} ({reason}); a local folder works too") from error
        if model.config.pad_token_id is None:
            # Decoders classify a text at its last token, and need to know where the padding begins.
            model.config.pad_token_id = tokenizer.pad_token_id
        missing = sorted(report["missing_keys"])
        check_weights(f"{option}: {source!r}", model.base_model_prefix, missing, finished=self.teacher is not None)
        log.info("Loaded %s (%.1f M parameters)", source, sum(p.numel() for p in model.parameters()) / 1e6)
        return model, tokenizer
