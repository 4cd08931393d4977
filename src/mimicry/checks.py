"""What a composed config must be before anything is built of it."""

import itertools
from collections.abc import Mapping
from datetime import datetime
from pathlib import Path
from typing import Any

from mimicry.schema import check_options, import_target

GROUPS = (
    *("regime", "attn", "model", "task", "optimizer", "scheduler"),
    *("trainer", "logger", "callbacks", "analysis", "paths", "maps_corpus"),
)
OPTIONAL_GROUPS = ("maps_corpus",)
OPTIONS = ("seed", "from", "rerun", "checkpoint_minutes", "adapters", "experiment", "targets", "fail_fast")
# Options that name local files, or what the hub has.
SOURCES = (("task", "root"), ("maps_corpus", "root"), ("model", "path"), ("model", "teacher"))
# Of a folder of images not all files are looked at.
FILES = 10_000
# What the stages of a run set themselves, and what to set instead.
OURS = {
    "max_epochs": "regime.<stage>.epochs",
    "min_epochs": "regime.<stage>.epochs",
    "fast_dev_run": "debug=smoke",
    "logger": "logger",
    "callbacks": "callbacks",
    "enable_checkpointing": "checkpoint_minutes",
    "default_root_dir": "paths.results",
    "use_distributed_sampler": "regime.<stage>.batch_size",
}


def check_config(plain: dict[str, Any]) -> None:
    """Checks every option against the signature of what it configures; ValueError with one line."""
    for name, value in plain.items():
        if name not in (*GROUPS, *OPTIONS):
            raise ValueError(f"{name}: no such option; there are {', '.join((*GROUPS, *OPTIONS))}")
        if name in GROUPS and not isinstance(value, dict) and not (value is None and name in OPTIONAL_GROUPS):
            raise ValueError(f"{name} must be one of its group's options, got {value!r}")
    if type(plain["seed"]) is not int or plain["seed"] < 0:
        raise ValueError(f"seed must be an integer >= 0, got {plain['seed']!r}")
    minutes = plain["checkpoint_minutes"]
    if type(minutes) not in (int, float) or not minutes > 0:
        raise ValueError(f"checkpoint_minutes must be a number > 0, got {minutes!r}")
    for name in ("rerun", "fail_fast"):
        if type(plain[name]) is not bool:
            raise ValueError(f"{name} must be true or false, got {plain[name]!r}")
    if not isinstance(plain["experiment"], str):
        raise ValueError(f"experiment must be a name, got {plain['experiment']!r}")
    if plain["adapters"] not in ("merged", "separate"):
        raise ValueError(f"adapters must be merged or separate, got {plain['adapters']!r}")
    # Before the options: those of one regime are unknown to another, which would say less.
    kinds = import_target(plain["regime"]["_target_"], "regime").modalities  # type: ignore[attr-defined]
    model = import_target(plain["model"]["_target_"], "model")
    kind = getattr(model, "kind", model.modality)  # type: ignore[attr-defined]
    if kind not in kinds:
        raise ValueError(
            f"model must be of a kind that the regime converts, {' or '.join(kinds)}, got {kind}: "
            "regime=finetuned is for classifiers of texts and images, regime=pretrained for language models, "
            "regime=scratch for models that start from random weights"
        )
    for name in GROUPS:
        check_options(plain[name], name)
    check_trainer(plain["trainer"])


def check_devices(trainer: dict[str, Any]) -> None:
    """Refuses several devices inside a sweep; ValueError with the reason."""
    strategy, devices = trainer.get("strategy", "auto"), trainer["devices"]
    if strategy != "auto" or devices != 1:
        raise ValueError(
            f"trainer: a sweep needs devices=1 and strategy=auto, got devices={devices} and strategy={strategy}: "
            "processes of one job would each run the whole sweep; spread its jobs with hydra/launcher=... instead"
        )


def check_trainer(options: Mapping[str, Any]) -> None:
    """Refuses what would be ignored, or found out only once training has begun; ValueError with one line.

    Args:
        options: of `lightning.Trainer`, their types checked.
    """
    for name, instead in OURS.items():
        if name in options:
            raise ValueError(f"trainer.{name} is set by the run itself, got {options[name]!r}: use {instead}")
    clip = options.get("gradient_clip_val")
    # Zero and less would mean no clipping to Lightning.
    if clip is not None and not clip > 0:
        raise ValueError(f"trainer.gradient_clip_val must be > 0, or null for no clipping, got {clip!r}")
    for name in ("accumulate_grad_batches", "log_every_n_steps"):
        value = options.get(name)
        if value is not None and value < 1:
            raise ValueError(f"trainer.{name} must be >= 1, got {value!r}")


def changed_since(plain: dict[str, Any], moment: str) -> list[str]:
    """The options that name a local folder in which a file is newer than a moment, an ISO date and time.

    Their files are no part of a config, and so not of what tells whether a run has finished.
    """
    # The moment is told in whole seconds.
    limit, found = datetime.fromisoformat(moment).timestamp() + 1, []
    for group, option in SOURCES:
        value = (plain[group] or {}).get(option)
        folder = Path(value).expanduser() if isinstance(value, str) else None
        if folder is not None and folder.is_dir():
            files = itertools.islice(folder.rglob("*"), FILES)
            if any(file.is_file() and file.stat().st_mtime > limit for file in files):
                found.append(f"{group}.{option}={value}")
    return found
