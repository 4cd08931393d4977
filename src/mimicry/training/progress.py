"""Progress bars that name their stage, and the quiet around them."""

import logging
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import lightning as L
from lightning.pytorch.callbacks import RichProgressBar


class StageProgressBar(RichProgressBar):
    """Lightning's rich progress bar with the name of the stage in front, such as `distill 2/2`."""

    def __init__(self) -> None:
        super().__init__(refresh_rate=5, leave=True)
        self.stage = ""

    def _get_train_description(self, current_epoch: int) -> str:
        return f"{self.stage} {current_epoch + 1}/{self.trainer.max_epochs}"

    @property
    def validation_description(self) -> str:
        return self.stage

    def get_metrics(self, trainer: L.Trainer, pl_module: L.LightningModule) -> dict[str, Any]:
        metrics = super().get_metrics(trainer, pl_module)
        # The logger's version number tells a reader nothing.
        metrics.pop("v_num", None)
        return metrics


@contextmanager
def quietly() -> Iterator[None]:
    """Inside the block Lightning reports what is wrong, and not what is there or might be faster."""
    log = logging.getLogger("lightning.pytorch")
    level = log.level
    log.setLevel(logging.WARNING)
    try:
        with warnings.catch_warnings():
            for message in ("does not have many workers", "smaller than the logging interval", "in eval mode at the"):
                warnings.filterwarnings("ignore", message=f".*{message}.*")
            # Lightning 2.6 under torch 2.13.
            warnings.filterwarnings("ignore", message=".*isinstance\\(treespec, LeafSpec\\).*", category=FutureWarning)
            yield
    finally:
        log.setLevel(level)
