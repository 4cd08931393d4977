"""Training with weights, gradients and optimizer states divided among devices (fully sharded data parallel, FSDP2)."""

import copy
from collections.abc import Iterator, Mapping
from typing import Any

import lightning as L
import torch
from lightning.pytorch.strategies import DDPStrategy
from lightning.pytorch.trainer.states import TrainerFn
from torch import nn
from torch.distributed.checkpoint.state_dict import (
    StateDictOptions,
    get_model_state_dict,
    get_optimizer_state_dict,
    set_optimizer_state_dict,
)
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard
from torch.distributed.tensor import DTensor
from torch.optim import Optimizer

from mimicry.training.task import TaskModule

# A checkpoint is one file, whatever the number of devices; frozen weights are those the stage starts from.
WHOLE = StateDictOptions(full_state_dict=True, cpu_offload=True, ignore_frozen_params=True)


class ShardedStrategy(DDPStrategy):
    """Data parallel training in which each device keeps its share of the model, and a whole block only while it runs.

    Holds for stages that train a model on its task; between them every process has the whole model in the memory of
    its host. Distillation, which trains maps alone, and measuring go as with DDP. One process gets the same numbers as
    several, to rounding.
    """

    _whole: nn.Module | None = None

    def model_to_device(self) -> None:
        module = self.lightning_module
        if isinstance(module, TaskModule) and module.trainer.state.fn == TrainerFn.FITTING:
            self._whole = module.model
            # A copy: of a module once sharded the hooks remain, and a student shares weights with its teacher.
            module.model = self._sharded(copy.deepcopy(module.model))
        super().model_to_device()

    def _sharded(self, model: nn.Module) -> nn.Module:
        mesh = init_device_mesh(self.root_device.type, (self.world_size,))
        for block in blocks(model):
            fully_shard(block, mesh=mesh)
        fully_shard(model, mesh=mesh)
        return model

    def configure_ddp(self) -> None:
        if self._whole is None:
            super().configure_ddp()

    def lightning_module_state_dict(self) -> dict[str, Any]:
        if self._whole is None:
            return super().lightning_module_state_dict()
        return get_model_state_dict(self._module, options=WHOLE)

    def optimizer_state(self, optimizer: Optimizer) -> dict[str, Any]:
        if self._whole is None:
            return super().optimizer_state(optimizer)
        return get_optimizer_state_dict(self._module, optimizer, options=WHOLE)

    def load_optimizer_state_dict(self, checkpoint: Mapping[str, Any]) -> None:
        if self._whole is None:
            super().load_optimizer_state_dict(checkpoint)
            return
        for optimizer, state in zip(self.optimizers, checkpoint["optimizer_states"], strict=True):
            set_optimizer_state_dict(self._module, optimizer, state, options=WHOLE)

    def on_train_end(self) -> None:
        super().on_train_end()
        if self._whole is not None:
            _copy_trained(self._module.model, self._whole)

    def teardown(self) -> None:
        if self._whole is not None:
            self._module.model, self._whole = self._whole, None
        super().teardown()

    @property
    def _module(self) -> L.LightningModule:
        assert self.lightning_module is not None
        return self.lightning_module


def blocks(model: nn.Module) -> Iterator[nn.Module]:
    """The layers a model repeats, outermost ones only."""
    for child in model.children():
        if isinstance(child, nn.ModuleList):
            yield from child
        else:
            yield from blocks(child)


@torch.no_grad()
def _copy_trained(sharded: nn.Module, whole: nn.Module) -> None:
    """All processes together: each gets all that was trained."""
    for mine, theirs in zip(whole.parameters(), sharded.parameters(), strict=True):
        if theirs.requires_grad:
            assert isinstance(theirs, DTensor)
            mine.copy_(theirs.full_tensor())
    for mine, theirs in zip(whole.buffers(), sharded.buffers(), strict=True):
        mine.copy_(theirs)
