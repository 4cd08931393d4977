"""A ViT with random weights, from the options of its shape."""

from typing import Any


def vit_config(options: dict[str, Any]) -> Any:
    """The transformers config of these options, checked.

    Raises:
        ValueError: an option that ViTConfig does not have, a value of the wrong type, or sizes that do not fit.
    """
    from huggingface_hub.errors import StrictDataclassError
    from transformers import ViTConfig

    known = list(ViTConfig.__annotations__)
    for option in options:
        if option not in known:
            raise ValueError(f"model.architecture.{option}: ViTConfig has no such option; it has {', '.join(known)}")
    try:
        config = ViTConfig(**options)
    except StrictDataclassError as error:
        raise ValueError(f"model.architecture: {' '.join(str(error).split())}") from error
    _check_divides("hidden_size", config.hidden_size, "num_attention_heads", config.num_attention_heads)
    for size, patch in zip(pair(config.image_size), pair(config.patch_size), strict=True):
        _check_divides("image_size", size, "patch_size", patch)
    if config.num_channels not in (1, 3):
        raise ValueError(f"model.architecture.num_channels must be 1 (gray) or 3 (RGB), got {config.num_channels}")
    return config


def build_vit(config: Any, num_labels: int) -> tuple[Any, Any]:
    """The classifier, drawn from torch's global generator, and an image processor that scales pixels to [-1, 1]."""
    from transformers import ViTForImageClassification, ViTImageProcessorPil

    config.num_labels = num_labels
    height, width = pair(config.image_size)
    half = [0.5] * config.num_channels
    processor = ViTImageProcessorPil(size={"height": height, "width": width}, image_mean=half, image_std=half)
    return ViTForImageClassification(config), processor


def pair(size: Any) -> tuple[int, int]:
    """Height and width of a size that may be one number for both."""
    height, width = (size, size) if isinstance(size, int) else size
    return height, width


def _check_divides(whole_name: str, whole: int, name: str, part: int) -> None:
    if part < 1 or whole < 1 or whole % part:
        raise ValueError(f"model.architecture.{name} must divide {whole_name} = {whole}, got {part}")
