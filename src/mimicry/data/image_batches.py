"""Images as batches: decoded, resized and normalised as each batch is made, by the model's own image processor."""

import math
from collections.abc import Sequence
from typing import Any

import torch
from PIL import Image
from torch import Tensor

from mimicry.data.batches import Rows
from mimicry.data.image_rows import open_image
from mimicry.data.task import ImageExample

# What stands before the patches: ViT's class token, and DeiT's second one.
SPECIAL_TOKENS = ("[CLS]", "[DIST]")


class ImageEncoder:
    """Turns images into pixels; no augmentation, so a row is the same in every epoch.

    Args:
        processor: the model's image processor; a single mean for normalising asks for grayscale.
        tokens: of the model, its patches and what stands before them.
        workers: processes that decode; 0 decodes in the main process.

    Raises:
        ValueError: if so many tokens are no grid of patches in the shape of the processor's images.
    """

    def __init__(self, processor: Any, tokens: int, workers: int = 0) -> None:
        self.processor = processor
        self.tokens = tokens
        self.workers = workers
        self.mode = "L" if processor.image_mean is not None and len(processor.image_mean) == 1 else "RGB"
        self.names = _position_names(tokens, processor.crop_size if processor.do_center_crop else processor.size)

    def encode(self, examples: Sequence[ImageExample]) -> Sequence[ImageExample]:
        """The examples themselves: pixels would not fit into memory.

        Raises:
            ValueError: if there are no examples.
        """
        if not examples:
            raise ValueError("examples must not be empty, got 0")
        return examples

    def lengths(self, rows: Rows) -> list[int]:
        """As many tokens for each row."""
        return [self.tokens] * len(rows)

    def collate(self, rows: Sequence[ImageExample]) -> dict[str, Tensor]:
        """`pixel_values` of shape (rows, channels, height, width), and `labels`."""
        images = [self._picture(row.image).convert(self.mode) for row in rows]
        pixels = self.processor(images, return_tensors="pt")["pixel_values"]
        return {"pixel_values": pixels, "labels": torch.tensor([row.label for row in rows])}

    def position_names(self, row: ImageExample) -> list[str]:
        """The class token, then row and column of each patch."""
        return self.names

    def _picture(self, image: Any) -> Image.Image:
        return open_image(image) if isinstance(image, bytes) else Image.fromarray(image)


def _position_names(tokens: int, size: Any) -> list[str]:
    for special in range(1, len(SPECIAL_TOKENS) + 1):
        rows = math.isqrt((tokens - special) * size["height"] // size["width"])
        if rows > 0 and rows * rows * size["width"] == (tokens - special) * size["height"]:
            columns = (tokens - special) // rows
            patches = [f"{row},{column}" for row in range(rows) for column in range(columns)]
            return [*SPECIAL_TOKENS[:special], *patches]
    shape = f"{size['height']}x{size['width']}"
    raise ValueError(f"tokens must be one or two more than the patches of a {shape} image, got {tokens}")
