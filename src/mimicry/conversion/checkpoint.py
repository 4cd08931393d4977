"""The model a run starts from: an embedded asset, a local folder or a hub id."""

import json
import logging
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from mimicry import assets
from mimicry.conversion.site import adapter_of

log = logging.getLogger(__name__)

EMBEDDED = {"asset:minilm": assets.MINILM}


@dataclass(frozen=True)
class Checkpoint:
    """A sequence classifier to be built from a pretrained encoder, or one that is finetuned already.

    Args:
        path: `asset:minilm`, a local folder in Hugging Face layout, or a hub id.
        teacher: a classifier finetuned on the task (folder or hub id); it replaces finetuning here. None finetunes.
        max_length: longer texts are cut to so many tokens, >= 8.

    Raises:
        ValueError: if max_length is out of range.
    """

    path: str
    teacher: str | None = None
    max_length: int = 128

    def __post_init__(self) -> None:
        if self.max_length < 8:
            raise ValueError(f"model.max_length must be >= 8, got {self.max_length}")

    @property
    def name(self) -> str:
        """Short name for folders and tables."""
        return Path((self.teacher or self.path).removeprefix("asset:")).name

    def check(self) -> None:
        """Refuses what can be refused without a download: missing folders, files, unsupported architectures."""
        for option, source in (("model.path", self.path), ("model.teacher", self.teacher)):
            if source is None or source in EMBEDDED:
                continue
            folder = Path(source).expanduser()
            if source.startswith("asset:"):
                raise ValueError(f"{option} must be one of {', '.join(EMBEDDED)} when embedded, got {source!r}")
            if folder.is_dir():
                self._check_folder(option, folder)
            elif source.startswith((".", "/", "~")) or source.count("/") > 1:
                raise ValueError(f"{option}: no such folder: {source}")

    def _check_folder(self, option: str, folder: Path) -> None:
        if not (folder / "config.json").is_file():
            raise ValueError(f"{option}: no config.json in {folder}")
        try:
            config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
        except json.JSONDecodeError as error:
            raise ValueError(f"{option}: {folder / 'config.json'} is not JSON ({error})") from error
        adapter_of(SimpleNamespace(**({"model_type": None} | config)))
        self._check_positions(SimpleNamespace(**config))

    def _check_positions(self, config: Any) -> None:
        positions = getattr(config, "max_position_embeddings", None)
        if positions is not None and self.max_length > positions:
            raise ValueError(f"model.max_length must be <= the model's {positions} positions, got {self.max_length}")

    def load(self, num_labels: int) -> tuple[Any, Any]:
        """The classifier with a head of `num_labels` outputs (1 for regression), and its tokenizer.

        A new head is drawn from torch's global generator: seed it first.

        Raises:
            ValueError: no seam for the architecture, a donor whose head does not fit, or weights that do not load.
        """
        from transformers import AutoConfig, AutoModelForSequenceClassification, AutoTokenizer

        option, source = ("model.teacher", self.teacher) if self.teacher else ("model.path", self.path)
        folder = str(assets.fetch(EMBEDDED[source])) if source in EMBEDDED else str(Path(source).expanduser())
        where = folder if Path(folder).is_dir() else source
        try:
            config = AutoConfig.from_pretrained(where)
            adapter_of(config)
            self._check_positions(config)
            if self.teacher is not None and config.num_labels != num_labels:
                raise ValueError(f"{option}: its head must have {num_labels} outputs, got {config.num_labels}")
            config.num_labels = num_labels
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
        self._check_weights(f"{option}: {source!r}", model.base_model_prefix, sorted(report["missing_keys"]))
        log.info("Loaded %s (%.1f M parameters)", source, sum(p.numel() for p in model.parameters()) / 1e6)
        return model, tokenizer

    def _check_weights(self, what: str, prefix: str, missing: list[str]) -> None:
        """Refuses weights with holes: only a new head, and the pooler under it, may start at random."""
        if self.teacher is not None and missing:
            raise ValueError(f"{what} is not a finished classifier, it lacks {', '.join(missing[:3])}")
        holes = [key for key in missing if key.startswith(f"{prefix}.") and ".pooler." not in key]
        if holes:
            raise ValueError(f"{what} lacks weights of its encoder: {', '.join(holes[:3])}")
