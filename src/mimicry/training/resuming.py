"""Checkpoints inside a stage, from which an interrupted one goes on with the numbers it would have had."""

import math
import time
from datetime import timedelta
from pathlib import Path
from typing import Any

import lightning as L
import torch
from lightning.pytorch.callbacks import ModelCheckpoint
from lightning.pytorch.plugins.io import TorchCheckpointIO
from lightning.pytorch.trainer.states import TrainerFn

from mimicry.data.batches import ResumableLoader
from mimicry.training.metrics import higher_is_better

# Seeds times this plus the batch never meet in a stage of any length.
BATCHES_PER_SEED = 1_000_003
# Beyond any seed in use.
BATCHES_PER_PROCESS = BATCHES_PER_SEED**2


class WholeCheckpointIO(TorchCheckpointIO):
    """Writes checkpoints of which a kill never leaves half.

    Lightning moves a finished file from the system's temporary folder, which may lie on another disk than the run.
    """

    def save_checkpoint(self, checkpoint: dict[str, Any], path: Any, storage_options: Any | None = None) -> None:
        partial = Path(path).with_name(f"{Path(path).name}.partial")
        super().save_checkpoint(checkpoint, partial, storage_options)
        partial.replace(path)


class StageCheckpoint(ModelCheckpoint):
    """Keeps `last.ckpt` of a running stage: what it trains, the optimizer, the schedule, and its place in the data.

    Frozen weights are left out: they are those the stage started from. Random numbers, such as dropout's, are a
    function of seed and batch, so that an interrupted stage draws what an undisturbed one would have drawn. Gradients
    are not kept: where those of several batches are added, checkpoints wait for the step.

    Args:
        folder: of this stage alone.
        minutes: between two checkpoints, > 0; at most so much work is lost.
        seed: of the run.
        loader: deals the stage's rows. Lightning itself would set it up before it reads the checkpoint, because our
            schedules ask for the number of steps, and so never tell it where to go on.
    """

    def __init__(self, folder: Path, minutes: float, seed: int, loader: ResumableLoader) -> None:
        interval = timedelta(minutes=minutes)
        self.path = folder / "last.ckpt"
        super().__init__(folder, self.path.stem, train_time_interval=interval, enable_version_counter=False)
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
        return self.path if self.path.is_file() else None

    def setup(self, trainer: L.Trainer, pl_module: L.LightningModule, stage: str) -> None:
        super().setup(trainer, pl_module, stage)
        pl_module.strict_loading = False

    def on_fit_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        self.began = time.perf_counter()

    def on_train_batch_start(
        self, trainer: L.Trainer, pl_module: L.LightningModule, batch: Any, batch_idx: int
    ) -> None:
        batches = trainer.current_epoch * int(trainer.num_training_batches) + batch_idx
        # Processes that train together draw different dropout for their different rows.
        torch.manual_seed(self.seed * BATCHES_PER_SEED + batches + BATCHES_PER_PROCESS * trainer.global_rank)

    def on_train_batch_end(
        self, trainer: L.Trainer, pl_module: L.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        # The last batch of an epoch steps, whatever their number.
        whole = (batch_idx + 1) % trainer.accumulate_grad_batches == 0
        if whole or batch_idx + 1 == trainer.num_training_batches:
            super().on_train_batch_end(trainer, pl_module, outputs, batch, batch_idx)

    def on_validation_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        # The scores of an epoch decide when to stop, and come after the checkpoint of its last batch.
        if trainer.state.fn == TrainerFn.FITTING and not trainer.sanity_checking:
            trainer.save_checkpoint(self.path)

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


class BestEpoch(L.Callback):
    """Stops a stage that gets no better on held-out rows, and keeps the weights of its best epoch on disk.

    Args:
        folder: of this stage alone; it gets `best.ckpt`.
        metric: name of the score watched, logged as `val/<metric>` after each epoch.
        patience: epochs without a better score after which training stops, >= 1.
    """

    def __init__(self, folder: Path, metric: str, patience: int) -> None:
        self.path = folder / "best.ckpt"
        self.metric = metric
        self.patience = patience
        # The best score, its epoch and the last one, counted from 1.
        self.best, self.epoch, self.last = -math.inf, 0, 0

    @property
    def stops(self) -> bool:
        """Whether as many epochs as are waited for have gone by without a better score."""
        return self.last - self.epoch >= self.patience

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        # Lightning forgets what was decided before an interruption.
        trainer.should_stop = trainer.should_stop or self.stops

    def on_validation_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        # Before training starts Lightning validates a batch or two to see that it works.
        if trainer.sanity_checking:
            return
        value = float(trainer.callback_metrics[f"val/{self.metric}"])
        score, self.last = value if higher_is_better(self.metric) else -value, trainer.current_epoch + 1
        if score > self.best:
            self.best, self.epoch = score, self.last
            trainer.save_checkpoint(self.path, weights_only=True)
        trainer.should_stop = trainer.should_stop or self.stops

    def take(self, module: L.LightningModule) -> int:
        """Gives the module the weights of its best epoch, and returns that epoch, counted from 1.

        Raises:
            FloatingPointError: if no epoch had a score.
        """
        if self.epoch == 0:
            raise FloatingPointError(f"{module.stage}: no epoch had a score on the held-out rows")
        module.load_state_dict(torch.load(self.path, weights_only=True)["state_dict"], strict=False)
        return self.epoch

    def state_dict(self) -> dict[str, Any]:
        return {"best": self.best, "epoch": self.epoch, "last": self.last}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self.best, self.epoch, self.last = (state_dict[name] for name in ("best", "epoch", "last"))
