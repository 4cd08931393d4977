"""What an interrupted run has trained so far, kept on disk until it finishes."""

import hashlib
import json
import logging
import shutil
import time
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_model, save_model
from torch import nn

from mimicry.ranks import is_main_process
from mimicry.regimes.trial import Trial

log = logging.getLogger(__name__)

WEIGHTS, TRIALS = "model.safetensors", "trials.json"


def is_kept(folder: Path) -> bool:
    """Whether a trained model lies in `folder`, whole."""
    return (folder / TRIALS).is_file()


def keep(folder: Path, model: nn.Module, trials: tuple[Trial, ...]) -> None:
    """Writes a trained model and how it was trained; a concurrent or killed run never leaves half of it.

    Of processes that train together the main one writes for all.
    """
    if not is_main_process():
        return
    folder.mkdir(parents=True, exist_ok=True)
    text = json.dumps([asdict(trial) for trial in trials])
    _write(folder / WEIGHTS, lambda to: save_model(model, str(to)))
    # Last, because its presence says that all is there.
    _write(folder / TRIALS, lambda to: to.write_text(text, encoding="utf-8"))


def take(folder: Path, model: nn.Module) -> tuple[Trial, ...]:
    """Loads what `keep` has written into a model of the same architecture."""
    load_model(model, folder / WEIGHTS)
    trials = json.loads((folder / TRIALS).read_text(encoding="utf-8"))
    return tuple(Trial(**{name: _tuples(value) for name, value in trial.items()}) for trial in trials)


def digest(model: nn.Module) -> str:
    """SHA-256 of all weights and their names: a path says nothing about what lies there."""
    found = hashlib.sha256()
    for name, tensor in model.state_dict().items():
        found.update(f"{name} {tuple(tensor.shape)} {tensor.dtype} ".encode())
        found.update(tensor.detach().cpu().contiguous().flatten().view(torch.uint8).numpy())
    return found.hexdigest()


def discard(folder: Path) -> None:
    """Removes what a finished run needs no more; left to the main process of those that train together."""
    if is_main_process():
        shutil.rmtree(folder, ignore_errors=True)


def _tuples(value: Any) -> Any:
    """JSON has lists alone."""
    return tuple(map(_tuples, value)) if isinstance(value, list) else value


def _write(path: Path, save: Callable[[Path], object]) -> None:
    partial = path.with_name(f"{path.name}.{time.time_ns()}")
    save(partial)
    partial.replace(path)
