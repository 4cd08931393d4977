"""How long a run will take, from timing its own model on its own data."""

import itertools
import time
from collections.abc import Collection

import torch
from torch import nn
from torch.utils.data import DataLoader

from mimicry.data.batches import TaskBatches, model_inputs
from mimicry.regimes.stage import Regime

# Measured shares of a training step: a distillation step is a forward pass plus small maps, and an optimizer step
# costs about a tenth on top of forward and backward.
SHARES = {"teach": 1.1, "distill": 0.5, "recover": 1.1, "train": 1.1}
# The batch of a typical length is picked among so many.
BATCHES_LOOKED_AT = 20


def forecast_seconds(model: nn.Module, regime: Regime, batches: TaskBatches, skipped: Collection[str]) -> float:
    """Wall time of all stages in seconds, from one timed batch per stage; weights and random state are left alone.

    Args:
        model: the softmax model.
        regime: its budgets count, every candidate of them.
        batches: the rows trained and measured on.
        skipped: stages that cost nothing: `teach` where the teacher is reused, `distill` where no map learns.
    """
    seconds = 0.0
    for stage, grid in regime.grids.items():
        epochs = sum(budget.epochs for budget in grid.candidates)
        if epochs > 0 and stage not in skipped:
            loader = batches.training(stage, grid.batch_size, grid.max_rows)
            # Another corpus may have classes that this model does not know, or scores.
            labelled = stage != "distill" or batches.distill is batches.train
            seconds += SHARES[stage] * epochs * _epoch_seconds(model, loader, train=True, labelled=labelled)
            if len(grid.candidates) > 1:
                measured = _epoch_seconds(model, batches.measuring(batches.held_out), train=False)
                seconds += len(grid.candidates) * measured
    states = 4
    for rows in batches.validation.values():
        seconds += states * _epoch_seconds(model, batches.measuring(rows), train=False)
    return seconds


def _epoch_seconds(model: nn.Module, loader: DataLoader, train: bool, labelled: bool = True) -> float:
    some = sorted(itertools.islice(loader, BATCHES_LOOKED_AT), key=lambda batch: next(iter(batch.values())).numel())
    batch = some[len(some) // 2]
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    home = next(model.parameters()).device
    model.to(device)
    with torch.random.fork_rng(), torch.set_grad_enabled(train):
        # The first pass warms up; the second is the one that counts.
        for _ in range(2):
            began = time.perf_counter()
            inputs = {name: value.to(device) for name, value in model_inputs(batch).items()}
            if labelled:
                loss = model(**inputs, labels=batch["labels"].to(device)).loss
            else:
                loss = model(**inputs).logits.mean()
            if train:
                loss.backward()
            # Reading the loss waits for the device.
            loss.item()
            elapsed = time.perf_counter() - began
    model.zero_grad(set_to_none=True)
    model.to(home)
    return elapsed * len(loader)
