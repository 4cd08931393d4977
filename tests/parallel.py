"""Training in several processes, each of which runs this file: `parallel.py STAGE STRATEGY PROCESSES FILE`."""

import functools
import os
import sys
import warnings
from pathlib import Path
from typing import Any

import lightning as L
import torch
from distilling import distilling
from families import tiny_model
from torch import Tensor
from torch.distributed.tensor import DTensor
from torch.utils.data import DataLoader, DistributedSampler

import mimicry
from mimicry.objectives import DistillationObjectives
from mimicry.training.metrics import build_scores
from mimicry.training.optimization import warmup_schedule
from mimicry.training.sharding import ShardedStrategy
from mimicry.training.task import TaskModule

STEPS, ROWS = 3, 4
STRATEGIES = {"alone": lambda: "auto", "ddp": lambda: "ddp", "sharded": ShardedStrategy}
# Means over tokens, teacher-forced and not. The error of outputs is a share of the variance in a batch, which is that
# of its own rows in every process.
OBJECTIVES = DistillationObjectives(attention=1.0, hidden=1.0, logits=1.0)
# Adam would turn rounding of the smallest gradients into whole steps.
SGD = functools.partial(torch.optim.SGD, momentum=0.9)


def rows() -> list[dict[str, Tensor]]:
    """Rows without padding: a mean over processes is one over tokens only where all have as many."""
    torch.manual_seed(1)
    ids = torch.randint(5, 99, (STEPS * ROWS, 10))
    return [{"input_ids": row, "attention_mask": torch.ones(10).long(), "labels": row} for row in ids]


def distillation() -> L.LightningModule:
    module, _, _ = distilling("bert", objectives=OBJECTIVES)
    module.optimizer, module.learning_rate = SGD, 0.3
    # As it was before the helper silenced it.
    del module.log
    return module


def recovery() -> L.LightningModule:
    student = mimicry.convert(tiny_model("llama"), "hedgehog")
    # Frozen weights are divided too.
    student.get_input_embeddings().requires_grad_(False)
    return TaskModule(student, "recover", build_scores(("accuracy",), 2), SGD, warmup_schedule, 0.3)


STAGES = {"distil": distillation, "recover": recovery}


def weights(module: L.LightningModule) -> dict[str, Tensor]:
    return {name: parameter.detach().clone() for name, parameter in module.named_parameters()}


def held(module: L.LightningModule, optimizer: Any) -> dict[str, int]:
    """Elements of weights, gradients and optimizer states in this process."""
    parameters = list(module.parameters())
    gradients = [parameter.grad for parameter in parameters if parameter.grad is not None]
    states = [state["momentum_buffer"] for state in optimizer.state.values()]
    kinds = {"weights": parameters, "gradients": gradients, "states": states}
    return {kind: sum(map(elements, tensors)) for kind, tensors in kinds.items()}


def elements(tensor: Tensor) -> int:
    return (tensor.to_local() if isinstance(tensor, DTensor) else tensor).numel()


class Held(L.Callback):
    """Notes what this process holds between a backward pass and a step, the last of which found states."""

    found: dict[str, int]

    def on_before_optimizer_step(self, trainer: L.Trainer, pl_module: Any, optimizer: Any) -> None:
        self.found = held(pl_module, optimizer)


def main(stage: str, strategy: str, processes: int, path: Path) -> None:
    """Trains on the same global batches, however many processes share them, and leaves what every process ends with."""
    torch.manual_seed(0)
    torch.set_num_threads(1)
    module, seen = STAGES[stage](), Held()
    start = weights(module)
    trainer = L.Trainer(
        accelerator="cpu",
        strategy=STRATEGIES[strategy](),
        devices=processes,
        max_epochs=1,
        gradient_clip_val=1.0,
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        callbacks=[seen],
        # Lightning's own sampler would draw another order for several processes.
        use_distributed_sampler=False,
    )
    data = rows()
    share = DistributedSampler(data, processes, int(os.environ.get("LOCAL_RANK", "0")), shuffle=False)
    trainer.fit(module, DataLoader(data, batch_size=ROWS // processes, sampler=share))
    result = {"start": start, "end": weights(module), "steps": trainer.global_step, "held": seen.found}
    torch.save(result | {"processes": trainer.world_size}, path.with_suffix(f".{trainer.global_rank}"))


if __name__ == "__main__":
    warnings.simplefilter("ignore")
    main(sys.argv[1], sys.argv[2], int(sys.argv[3]), Path(sys.argv[4]))
