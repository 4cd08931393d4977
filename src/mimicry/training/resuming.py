"""Checkpoints inside a stage, from which an interrupted one goes on with the numbers it would have had."""

import time
from datetime import timedelta
from pathlib import Path
from typing import Any

import lightning as L
import torch
from lightning.pytorch.callbacks import ModelCheckpoint

from mimicry.data.batches import ResumableLoader

# Seeds times this plus the step never meet in a stage of any length.
STEPS_PER_SEED = 1_000_003


class StageCheckpoint(ModelCheckpoint):
    """Keeps `last.ckpt` of a running stage: what it trains, the optimizer, the schedule, and its place in the data.

    Frozen weights are left out: they are those the stage started from. Random numbers, such as dropout's, are a
    function of seed and step, so that an interrupted stage draws what an undisturbed one would have drawn.

    Args:
        folder: of this stage alone.
        minutes: between two checkpoints, > 0; at most so much work is lost.
        seed: of the run.
        loader: deals the stage's rows. Lightning itself would set it up before it reads the checkpoint, because our
            schedules ask for the number of steps, and so never tell it where to go on.
    """

    def __init__(self, folder: Path, minutes: float, seed: int, loader: ResumableLoader) -> None:
        interval = timedelta(minutes=minutes)
        super().__init__(dirpath=folder, filename="last", train_time_interval=interval, enable_version_counter=False)
        self.seed = seed
        self.loader = loader
        self.began = time.perf_counter()
        # Of the attempts before this one.
        self.earlier_s = 0.0

    @property
    def wall_s(self) -> float:
        """Seconds of training so far, those of interrupted attempts up to their last checkpoint included."""
        return self.earlier_s + time.perf_counter() - self.began

    @property
    def last(self) -> Path | None:
        """The checkpoint of an interrupted attempt, if there is one."""
        path = Path(str(self.dirpath)) / "last.ckpt"
        return path if path.is_file() else None

    def setup(self, trainer: L.Trainer, pl_module: L.LightningModule, stage: str) -> None:
        super().setup(trainer, pl_module, stage)
        pl_module.strict_loading = False

    def on_fit_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        self.began = time.perf_counter()

    def on_train_batch_start(
        self, trainer: L.Trainer, pl_module: L.LightningModule, batch: Any, batch_idx: int
    ) -> None:
        torch.manual_seed(self.seed * STEPS_PER_SEED + trainer.global_step)

    def on_save_checkpoint(self, trainer: L.Trainer, pl_module: L.LightningModule, checkpoint: dict[str, Any]) -> None:
        super().on_save_checkpoint(trainer, pl_module, checkpoint)
        # Under every name: a student may share the weights of its teacher.
        named = pl_module.named_parameters(remove_duplicate=False)
        frozen = {name for name, parameter in named if not parameter.requires_grad}
        weights = checkpoint["state_dict"]
        checkpoint["state_dict"] = {name: value for name, value in weights.items() if name not in frozen}
        checkpoint["wall_s"] = self.wall_s
        checkpoint["loader"] = self.loader.state_dict()

    def on_load_checkpoint(self, trainer: L.Trainer, pl_module: L.LightningModule, checkpoint: dict[str, Any]) -> None:
        self.earlier_s = checkpoint["wall_s"]
        self.loader.load_state_dict(checkpoint["loader"])
