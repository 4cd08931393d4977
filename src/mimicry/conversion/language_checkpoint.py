"""The language model a run starts from: an embedded asset, a local folder or a hub id."""

import logging
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from mimicry import assets
from mimicry.conversion.donor import check_unconverted, read_config
from mimicry.conversion.site import adapter_of
from mimicry.conversion.unpacking import unpacked

log = logging.getLogger(__name__)

EMBEDDED = {"asset:smollm2": assets.SMOLLM2}
DTYPES = ("float32", "bfloat16", "auto")


@dataclass(frozen=True)
class LanguageCheckpoint:
    """A pretrained decoder with its language-modelling head.

    Args:
        path: `asset:smollm2`, a local folder in Hugging Face layout, or a hub id.
        max_length: of the blocks it reads, in tokens, >= 8.
        dtype: of its weights: `float32`, `bfloat16`, or `auto`, the one they were saved in.
        gradient_checkpointing: recover with the activations of one layer at a time, which takes a third more time.

    Raises:
        ValueError: if max_length or dtype is out of range.
    """

    path: str
    max_length: int = 512
    dtype: str = "float32"
    gradient_checkpointing: bool = False

    modality = "language"

    def __post_init__(self) -> None:
        if self.max_length < 8:
            raise ValueError(f"model.max_length must be >= 8, got {self.max_length}")
        if self.dtype not in DTYPES:
            raise ValueError(f"model.dtype must be one of {', '.join(DTYPES)}, got {self.dtype!r}")

    @property
    def name(self) -> str:
        """Short name for folders and tables."""
        return Path(self.path.removeprefix("asset:")).name

    def check(self) -> None:
        """Refuses what can be refused without a download: missing folders, files, unsupported architectures."""
        if self.path in EMBEDDED:
            return
        if self.path.startswith("asset:"):
            raise ValueError(f"model.path must be one of {', '.join(EMBEDDED)} when embedded, got {self.path!r}")
        config = read_config("model.path", self.path)
        if config is not None:
            # First, because the host library has no config class for some of the families that are refused here.
            plain = SimpleNamespace(**config)
            check_unconverted(plain)
            adapter_of(plain)
            self._read_config(_where(self.path))

    def load(self) -> tuple[Any, Any]:
        """The model in evaluation mode, and its tokenizer.

        A tokenizer without a pad token pads with its end-of-text token: padded places are masked, so which token
        stands there does not matter.

        Raises:
            ValueError: no seam for the architecture, no decoder, blocks longer than its positions, weights that do not
                load, or a tokenizer that does not fit the model.
            AssetError: if the asset is not to be had.
        """
        from safetensors import SafetensorError
        from transformers import AutoModelForCausalLM

        where = str(unpacked(EMBEDDED[self.path])) if self.path in EMBEDDED else _where(self.path)
        try:
            config = self._read_config(where)
            tokenizer = self._load_tokenizer(where)
            model, report = AutoModelForCausalLM.from_pretrained(
                where, config=config, dtype=self.dtype, output_loading_info=True
            )
        except (OSError, SafetensorError) as error:
            reason = _one_line(error)
            raise ValueError(f"model.path: cannot load {self.path!r} ({reason}); a local folder works too") from error
        if missing := sorted(report["missing_keys"]):
            raise ValueError(f"model.path: {self.path!r} lacks weights: {', '.join(missing[:3])}")
        check_tokenizer_fits(self.path, tokenizer, model.get_input_embeddings().num_embeddings)
        if tokenizer.pad_token_id is None:
            tokenizer.pad_token = tokenizer.eos_token
        # Else `generate` warns and chooses for itself.
        model.generation_config.pad_token_id = tokenizer.pad_token_id
        if self.gradient_checkpointing:
            if not model.supports_gradient_checkpointing:
                raise ValueError(
                    f"model.gradient_checkpointing must be false for {config.model_type!r}, which has none"
                )
            model.activation_checkpointing_enable()
        log.info("Loaded %s (%.1f M parameters)", self.path, sum(p.numel() for p in model.parameters()) / 1e6)
        return model.eval(), tokenizer

    def _read_config(self, where: str) -> Any:
        """The host library's config; refuses no decoders, those without a seam, and blocks longer than the model's."""
        from huggingface_hub.errors import StrictDataclassError
        from transformers import AutoConfig

        try:
            config = AutoConfig.from_pretrained(where)
        except (StrictDataclassError, TypeError, ValueError) as error:
            raise ValueError(f"model.path: cannot read the config of {self.path!r} ({_one_line(error)})") from error
        check_decoder(config)
        positions = getattr(config, "max_position_embeddings", None)
        if positions is not None and self.max_length > positions:
            raise ValueError(f"model.max_length must be <= the model's {positions} positions, got {self.max_length}")
        return config

    def _load_tokenizer(self, where: str) -> Any:
        from transformers import AutoTokenizer

        try:
            return AutoTokenizer.from_pretrained(where)
        except ValueError as error:
            raise ValueError(f"model.path: cannot load the tokenizer of {self.path!r} ({_one_line(error)})") from error


def check_decoder(config: Any) -> None:
    """Refuses architectures without a seam, and those that do not predict the next token."""
    from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING_NAMES as DECODERS
    from transformers.models.auto.modeling_auto import MODEL_FOR_MASKED_LM_MAPPING_NAMES as ENCODERS

    check_unconverted(config)
    adapter_of(config)
    # Encoders can be built as decoders too, but were not trained as such.
    if config.model_type not in DECODERS or config.model_type in ENCODERS:
        raise ValueError(f"model: {config.model_type!r} is no decoder: it does not predict the next token of a text")


def check_tokenizer_fits(source: str, tokenizer: Any, rows: int, option: str = "model.path") -> None:
    """Refuses a tokenizer without a vocabulary or end-of-text token, or with ids that the model has no embedding for.

    Args:
        source: where it is from, for the message.
        tokenizer: to be checked.
        rows: of the model's embedding.
        option: that named it, for the message.

    Raises:
        ValueError: if it does not fit.
    """
    what = f"{option}: the tokenizer of {source!r}"
    vocabulary = tokenizer.get_vocab()
    special = set(tokenizer.all_special_tokens)
    if not set(vocabulary) - special:
        raise ValueError(f"{what} has no vocabulary, got {len(vocabulary)} special tokens alone")
    if tokenizer.eos_token_id is None:
        raise ValueError(f"{what} must have an end-of-text token, got none")
    for kind, tokens in (("special token", special), ("token", vocabulary)):
        token = max(tokens, key=lambda token: vocabulary.get(token, -1))
        if vocabulary[token] >= rows:
            raise ValueError(
                f"{what} does not fit: its {kind} {token!r} has the id {vocabulary[token]}, the model has {rows} rows"
            )


def _where(source: str) -> str:
    folder = Path(source).expanduser()
    return str(folder) if folder.is_dir() else source


def _one_line(error: Exception) -> str:
    return " ".join(str(error).split())[:200]
