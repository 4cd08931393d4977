"""Distillation under Lightning's DDP, which runs this file in every process: `parallel.py PROCESSES FILE`."""

import os
import sys
import warnings
from pathlib import Path
from typing import Any

import lightning as L
import torch
from distilling import distilling
from torch import Tensor
from torch.utils.data import DataLoader, DistributedSampler

from mimicry.objectives import DistillationObjectives

STEPS, ROWS = 3, 4
# Means over tokens, teacher-forced and not. The error of outputs is a share of the variance in a batch, which is that
# of its own rows in every process.
OBJECTIVES = DistillationObjectives(attention=1.0, hidden=1.0, logits=1.0)


def rows() -> list[dict[str, Tensor]]:
    """Rows without padding: a mean over processes is one over tokens only where all have as many."""
    torch.manual_seed(1)
    ids = torch.randint(5, 99, (STEPS * ROWS, 10))
    return [{"input_ids": row, "attention_mask": torch.ones(10).long()} for row in ids]


class Report(L.Callback):
    """Leaves what every process ended with."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.start: dict[str, Tensor] = {}

    def on_train_start(self, trainer: L.Trainer, pl_module: Any) -> None:
        self.start = {name: p.detach().clone() for name, p in pl_module.students.named_parameters()}

    def on_train_end(self, trainer: L.Trainer, pl_module: Any) -> None:
        maps = {name: p.detach().clone() for name, p in pl_module.students.named_parameters()}
        frozen = {name: p.detach().clone() for name, p in pl_module.teacher.named_parameters()}
        result = {"start": self.start, "maps": maps, "teacher": frozen}
        result |= {"steps": trainer.global_step, "processes": trainer.world_size}
        torch.save(result, self.path.with_suffix(f".{trainer.global_rank}"))


def main(processes: int, path: Path) -> None:
    """Trains on the same global batches, however many processes share them."""
    torch.manual_seed(0)
    torch.set_num_threads(1)
    module, _, _ = distilling("bert", objectives=OBJECTIVES)
    # Adam would turn rounding of the smallest gradients into whole steps.
    module.optimizer, module.learning_rate = torch.optim.SGD, 0.3
    # As it was before the helper silenced it.
    del module.log
    parallel = {"strategy": "ddp", "devices": processes} if processes > 1 else {"devices": 1}
    trainer = L.Trainer(
        accelerator="cpu",
        max_epochs=1,
        gradient_clip_val=1.0,
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        callbacks=[Report(path)],
        # Lightning's own sampler would draw another order for several processes.
        use_distributed_sampler=False,
        **parallel,
    )
    data = rows()
    share = DistributedSampler(data, processes, int(os.environ.get("LOCAL_RANK", "0")), shuffle=False)
    trainer.fit(module, DataLoader(data, batch_size=ROWS // processes, sampler=share))


if __name__ == "__main__":
    warnings.simplefilter("ignore")
    main(int(sys.argv[1]), Path(sys.argv[2]))
