"""How a stage trains: tokens per second, the share of the machine that is, and the course of its loss."""

import functools
import time
from typing import Any

import lightning as L
import torch
from torch import Tensor

# Side of the square product that shows what a device can do: it fills the device, and takes a fraction of a second.
CPU_SIDE, GPU_SIDE = 1024, 8192
# Autocasting precisions of Lightning by the dtype that products run in; all others are float32.
DTYPES = {"bf16-mixed": torch.bfloat16, "bf16-true": torch.bfloat16, "16-mixed": torch.float16}
# Of a recorded curve: neighbouring points are averaged when there would be more.
POINTS = 100


@functools.cache
def peak_flops_per_s(device: torch.device, precision: str) -> float:
    """Floating-point operations per second of a large square matrix product, the best of a few.

    Measured rather than looked up: there is no table of CPUs, and no GPU reaches its vendor's number. On a CPU one
    thread is measured, by the clock of its own work, and stands for all: together they would wait for whichever of them
    another process has displaced, and the machine is no slower for that.

    Args:
        device: where the product runs.
        precision: of the Lightning trainer, such as `32-true` or `bf16-mixed`.
    """
    side = CPU_SIDE if device.type == "cpu" else GPU_SIDE
    # Filled without random numbers: those of the run must not depend on being measured.
    a = torch.full((side, side), 0.5, device=device, dtype=DTYPES.get(precision, torch.float32))
    threads = torch.get_num_threads()
    best = float("inf")
    if device.type == "cpu":
        torch.set_num_threads(1)
    for _ in range(6):
        began = _seconds(device)
        torch.mm(a, a)
        best = min(best, _seconds(device) - began)
    if device.type == "cpu":
        torch.set_num_threads(threads)
        best /= threads
    return 2 * side**3 / best


class Throughput(L.Callback):
    """Logs `<stage>/tokens_per_s`, and `<stage>/mfu` where the model counts its operations.

    MFU is the share of the device's matrix products (`peak_flops_per_s`) that the model's own operations take.

    Args:
        flops_per_token: of training, mean over the stage's tokens; None where the model does not count them.
    """

    def __init__(self, flops_per_token: float | None) -> None:
        self.flops_per_token = flops_per_token
        self.peak: float | None = None
        # Of the stage so far, those of interrupted attempts up to their last checkpoint included.
        self.validating_s = 0.0
        self._tokens: int | Tensor = 0
        self._began = self._paused = 0.0
        self._latest: dict[str, float] = {}

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        if self.flops_per_token is not None:
            self.peak = peak_flops_per_s(pl_module.device, str(trainer.precision))
        self._tokens, self._began = 0, time.perf_counter()

    def on_train_batch_end(
        self, trainer: L.Trainer, pl_module: L.LightningModule, outputs: Any, batch: dict[str, Tensor], batch_idx: int
    ) -> None:
        self._tokens = self._tokens + batch_tokens(batch)
        if (batch_idx + 1) % trainer.log_every_n_steps == 0:
            now = time.perf_counter()
            rate = float(self._tokens) / (now - self._began)
            self._tokens, self._began = 0, now
            self._latest = {f"{pl_module.stage}/tokens_per_s": rate}
            if self.flops_per_token is not None and self.peak is not None:
                self._latest[f"{pl_module.stage}/mfu"] = rate * self.flops_per_token / self.peak
        # At every batch, because Lightning chooses by its own count which of them it writes.
        pl_module.log_dict(self._latest)

    def on_validation_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        self._paused = time.perf_counter()

    def on_validation_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        # Before training starts Lightning validates a batch or two to see that it works.
        if not trainer.sanity_checking:
            passed = time.perf_counter() - self._paused
            self.validating_s += passed
            self._began += passed

    def state_dict(self) -> dict[str, Any]:
        return {"validating_s": self.validating_s}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self.validating_s = state_dict["validating_s"]


class LossCurve(L.Callback):
    """The mean training loss of stretches of steps, at most 100 of them, whatever the length of the stage.

    With the scores after each epoch, where there is a loader to validate on. An interrupted stage goes on with the
    curves of its checkpoint.
    """

    def __init__(self) -> None:
        self.stretch = 1
        self.points: list[tuple[int, float]] = []
        self.validated: dict[str, list[tuple[int, float]]] = {}
        self._losses: list[float] = []
        # Trained on so far.
        self.batches = 0

    @property
    def scores(self) -> tuple[tuple[str, tuple[tuple[int, float], ...]], ...]:
        """Names of the scores, such as `val/accuracy`, and for each the batches after which it had which value."""
        return tuple((name, tuple(points)) for name, points in self.validated.items())

    @property
    def curve(self) -> tuple[tuple[int, float], ...]:
        """The last batch of each stretch, counted from 1, and the stretch's mean loss, to five digits."""
        points = [*self.points, (self.batches, _mean(self._losses))] if self._losses else self.points
        return tuple((step, float(f"{loss:.5g}")) for step, loss in points)

    def on_train_batch_end(
        self, trainer: L.Trainer, pl_module: L.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        # Lightning has divided it by the number of batches whose gradients are added.
        self.add(float(outputs["loss"]) * trainer.accumulate_grad_batches)

    def on_validation_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        # Before training starts Lightning validates a batch or two to see that it works.
        if not trainer.sanity_checking:
            for name, value in trainer.callback_metrics.items():
                if name.startswith("val/"):
                    self.validated.setdefault(name, []).append((self.batches, float(f"{float(value):.5g}")))

    def add(self, loss: float) -> None:
        """One more batch."""
        self.batches += 1
        self._losses.append(loss)
        if len(self._losses) == self.stretch:
            self.points.append((self.batches, _mean(self._losses)))
            self._losses = []
        if len(self.points) == POINTS:
            pairs = zip(self.points[::2], self.points[1::2], strict=True)
            self.points = [(step, _mean([before, loss])) for (_, before), (step, loss) in pairs]
            self.stretch *= 2

    def state_dict(self) -> dict[str, Any]:
        losses = {"stretch": self.stretch, "points": self.points, "losses": self._losses, "steps": self.batches}
        return losses | {"validated": self.validated}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self.stretch, self.points = state_dict["stretch"], state_dict["points"]
        self._losses, self.batches = state_dict["losses"], state_dict["steps"]
        self.validated = state_dict["validated"]


def batch_tokens(batch: dict[str, Tensor]) -> int | Tensor:
    """Tokens of a batch, padding not counted, both sequences of pairs; 0 for images, which have patches."""
    tokens: int | Tensor = 0
    for side in ("", "pair_"):
        if (ids := batch.get(f"{side}input_ids")) is not None:
            mask = batch.get(f"{side}attention_mask")
            tokens = tokens + (ids.numel() if mask is None else mask.sum())
    return tokens


def _mean(values: list[float]) -> float:
    return sum(values) / len(values)


def _seconds(device: torch.device) -> float:
    if device.type == "cpu":
        return time.thread_time()
    torch.cuda.synchronize(device)
    return time.perf_counter()
