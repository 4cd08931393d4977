"""How long a run will take, from timing its own model on its own data."""

import itertools
import statistics
import time
from collections.abc import Callable

import torch
from torch import nn
from torch.utils.data import DataLoader

from mimicry.data.text import TextDataModule
from mimicry.regimes.finetuned import FinetunedConversion
from mimicry.training.budget import Budget

# Measured shares of a training step: a distillation step is a forward pass plus small maps, and an optimizer step
# costs about a tenth on top of forward and backward.
DISTILL_STEP = 0.5
OPTIMIZER = 1.1
# The batch of a typical length is picked among so many.
BATCHES_LOOKED_AT = 20


def forecast_seconds(
    model: nn.Module,
    regime: FinetunedConversion,
    loaders: Callable[[Budget | None], TextDataModule],
    teacher_known: bool,
) -> float:
    """Wall time of all stages in seconds, from one timed batch per stage; weights and random state are left alone.

    Args:
        model: the softmax model.
        regime: its budgets count.
        loaders: builds the batches of a budget; None gives those for measuring.
        teacher_known: the teacher is reused, so finetuning it costs nothing.
    """
    seconds = 0.0
    for budget, share in (
        (regime.teach, 0.0 if teacher_known else OPTIMIZER),
        (regime.distill, DISTILL_STEP),
        (regime.recover, OPTIMIZER),
    ):
        if budget.epochs > 0 and share > 0:
            seconds += share * budget.epochs * _epoch_seconds(model, loaders(budget).train_dataloader(), train=True)
    states = 4
    return seconds + states * _epoch_seconds(model, loaders(None).val_dataloader(), train=False)


def _epoch_seconds(model: nn.Module, loader: DataLoader, train: bool) -> float:
    typical = statistics.mean(len(row) for row in loader.dataset)
    batch = min(
        itertools.islice(loader, BATCHES_LOOKED_AT), key=lambda batch: abs(batch["input_ids"].shape[1] - typical)
    )
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    home = next(model.parameters()).device
    model.to(device)
    with torch.random.fork_rng(), torch.set_grad_enabled(train):
        # The first pass warms up; the second is the one that counts.
        for _ in range(2):
            began = time.perf_counter()
            loss = model(**{name: value.to(device) for name, value in batch.items()}).loss
            if train:
                loss.backward()
            # Reading the loss waits for the device.
            loss.item()
            elapsed = time.perf_counter() - began
    model.zero_grad(set_to_none=True)
    model.to(home)
    return elapsed * len(loader)
