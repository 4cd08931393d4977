"""The image model a run starts from: a local folder, a hub id, or an architecture with random weights."""

import logging
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np

from mimicry.conversion.donor import KnownScores, check_head, check_unconverted, check_weights, fit_head, read_config
from mimicry.conversion.new_vit import build_vit, pair, vit_config
from mimicry.conversion.site import adapter_of

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class ImageCheckpoint:
    """An image classifier to be built from a pretrained encoder or from random weights, or one finetuned already.

    Args:
        path: local folder in Hugging Face layout, or hub id; None starts from random weights.
        architecture: a new model's shape where `path` is None: options of transformers' ViTConfig. Its images are
            resized to `image_size` and scaled to [-1, 1].
        teacher: a classifier finetuned on the task (folder or hub id); it replaces finetuning here. None finetunes.
        known_scores: of the teacher, from its card, by task: the primary metric as a fraction.
        score_tolerance: how far below its known score a teacher may score here, >= 0.

    Raises:
        ValueError: unless one of path and architecture is given, and if a known score or the tolerance is out of
            range, or there are scores of no teacher.
    """

    path: str | None = None
    architecture: dict[str, Any] | None = None
    teacher: str | None = None
    known_scores: dict[str, float] | None = None
    score_tolerance: float = 0.01

    modality = "image"

    def __post_init__(self) -> None:
        if (self.path is None) == (self.architecture is None):
            raise ValueError(
                f"model needs one of path and architecture, got {'neither' if self.path is None else 'both'}"
            )
        # Checked at once, used when a teacher was measured.
        self.known()

    @property
    def name(self) -> str:
        """Short name for folders and tables."""
        source = self.teacher or self.path
        if source is not None:
            return Path(source).name
        config = vit_config(self.architecture or {})
        return f"vit-{config.num_hidden_layers}x{config.hidden_size}"

    @property
    def max_length(self) -> int | None:
        """Tokens of the model: its patches and what stands before them. None until its config was fetched."""
        from transformers import AutoConfig

        source = self.teacher or self.path
        if source is None:
            return count_tokens(vit_config(self.architecture or {}))
        self.check()
        try:
            return count_tokens(AutoConfig.from_pretrained(_where(source), local_files_only=True))
        except OSError:
            return None

    def check(self) -> None:
        """Refuses what can be refused without a download: missing folders, files, unsupported architectures."""
        for option, source in (("model.path", self.path), ("model.teacher", self.teacher)):
            config = None if source is None else read_config(option, source)
            if config is not None:
                check_family(SimpleNamespace(**config))
        if self.architecture is not None:
            vit_config(self.architecture)

    def check_score(self, task: str, metric: str, score: float) -> None:
        """Refuses a teacher that scores below its known score; see `KnownScores.check`."""
        self.known().check(task, metric, score)

    def known(self) -> KnownScores:
        """What the teacher scores elsewhere."""
        return KnownScores(self.teacher, self.known_scores, self.score_tolerance)

    def load(self, num_labels: int, labels: tuple[str, ...] = ()) -> tuple[Any, Any]:
        """The classifier with a head of `num_labels` outputs, and its image processor, without torchvision.

        New weights are drawn from torch's global generator: seed it first.

        Args:
            num_labels: outputs of the head.
            labels: names of the task's classes in the order of their ids, to hold a teacher's own names against;
                nothing is compared where either has none.

        Raises:
            ValueError: no seam for the architecture, a teacher whose head does not fit, weights that do not load, or
                an image processor whose images the model does not take.
        """
        if self.teacher is None and self.path is None:
            model, processor = build_vit(vit_config(self.architecture or {}), num_labels)
            log.info("Built %s (%.1f M parameters)", self.name, sum(p.numel() for p in model.parameters()) / 1e6)
            return model, processor
        option, source = ("model.teacher", self.teacher) if self.teacher else ("model.path", self.path)
        assert source is not None
        try:
            model, processor = self._load(option, source, num_labels, labels)
        except (OSError, ConnectionError) as error:
            reason = str(error).strip().splitlines()[0]
            raise ValueError(f"{option}: cannot load {source!r} ({reason}); a local folder works too") from error
        log.info("Loaded %s (%.1f M parameters)", source, sum(p.numel() for p in model.parameters()) / 1e6)
        return model, processor

    def _load(self, option: str, source: str, num_labels: int, labels: tuple[str, ...]) -> tuple[Any, Any]:
        from transformers import AutoConfig, AutoImageProcessor, AutoModelForImageClassification

        where, finished = _where(source), self.teacher is not None
        config = AutoConfig.from_pretrained(where)
        check_family(config)
        if finished:
            check_head(option, source, config, num_labels, labels)
        fit_head(config, num_labels)
        # Without a name the host library takes a family's plain classifier; DeiT has one that cannot be finetuned.
        config.architectures = []
        model, report = AutoModelForImageClassification.from_pretrained(
            where,
            config=config,
            output_loading_info=True,
            # A head finetuned for something else is replaced; a teacher's head was checked above.
            ignore_mismatched_sizes=not finished,
        )
        check_weights(f"{option}: {source!r}", model.base_model_prefix, sorted(report["missing_keys"]), finished)
        # PIL resizes in the same way on every machine, with torchvision or without.
        processor = AutoImageProcessor.from_pretrained(where, backend="pil")
        _check_processor(option, processor, config)
        return model, processor


def check_family(config: Any) -> None:
    """Refuses architectures without a seam, and those that do not read images."""
    check_unconverted(config)
    adapter = adapter_of(config)
    if not hasattr(adapter, "SPECIAL_TOKENS"):
        raise ValueError(f"model: {config.model_type!r} reads no images; use mimicry.conversion.checkpoint.Checkpoint")


def count_tokens(config: Any) -> int:
    """Patches of an image, and what stands before them."""
    check_family(config)
    patches = [size // patch for size, patch in zip(pair(config.image_size), pair(config.patch_size), strict=True)]
    return int(patches[0] * patches[1] + adapter_of(config).SPECIAL_TOKENS)


def _check_processor(option: str, processor: Any, config: Any) -> None:
    """Refuses an image processor that makes images of another size than the model takes."""
    height, width = pair(config.image_size)
    blank = np.zeros((height, width, config.num_channels), dtype=np.uint8)
    made = tuple(processor(blank, return_tensors="pt")["pixel_values"].shape[1:])
    if made != (config.num_channels, height, width):
        raise ValueError(
            f"{option}: its model takes images of {(config.num_channels, height, width)}, but they are {made}"
        )


def _where(source: str) -> str:
    folder = Path(source).expanduser()
    return str(folder) if folder.is_dir() else source
