"""A process that is killed while it writes a checkpoint leaves the one before."""

from pathlib import Path
from typing import Any

import pytest
import torch
from lightning.pytorch.plugins.io import TorchCheckpointIO

from mimicry.training.resuming import WholeCheckpointIO


def test_half_a_checkpoint_never_takes_the_place_of_a_whole_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "last.ckpt"
    WholeCheckpointIO().save_checkpoint({"step": 1}, path)

    def killed(self: Any, checkpoint: dict, path: Path, storage_options: Any = None) -> None:
        Path(path).write_bytes(b"half")
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(TorchCheckpointIO, "save_checkpoint", killed)
        with pytest.raises(KeyboardInterrupt):
            WholeCheckpointIO().save_checkpoint({"step": 2}, path)
    assert torch.load(path) == {"step": 1}
    WholeCheckpointIO().save_checkpoint({"step": 3}, path)
    assert torch.load(path) == {"step": 3}
    assert [entry.name for entry in tmp_path.iterdir()] == ["last.ckpt"]
