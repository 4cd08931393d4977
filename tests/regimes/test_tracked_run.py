"""A run of an experiment, as W&B sees it."""

import json
from pathlib import Path

import pytest
import wandb
from cli import run_here
from wandb_server import isolate_wandb, wandb_server

SHORT = (
    "regime.teach.epochs=1",
    "regime.distill.epochs=1",
    "regime.recover.epochs=0",
    "task.max_train_rows=32",
    "trainer.log_every_n_steps=1",
)


def test_a_run_is_grouped_by_its_experiment_and_named_by_its_cell(
    arguments: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with wandb_server() as (address, received):
        isolate_wandb(tmp_path / "home", address, monkeypatch)
        monkeypatch.setenv("WANDB_API_KEY", "a" * 40)
        run_here(monkeypatch, *arguments, *SHORT, "experiment=cola_conversion", "logger.mode=online")
        wandb.teardown()
    ((name, about),) = received.runs.items()
    assert about["groupName"] == "cola_conversion"
    assert about["jobType"] == "finetuned"
    assert about["tags"] == ["hedgehog", "tiny", "sst2"]
    assert about["displayName"] == "finetuned-hedgehog-tiny-sst2-s0"
    config = json.loads(about["config"])
    assert config["cell"]["value"]["attn"] == "hedgehog"
    assert config["experiment"]["value"] == "cola_conversion"
    assert {"score", "percent_of_teacher", "kl", "distilled/analysis/kl"} <= received.summary[name].keys()
    # The curves of training, over the steps of their stage.
    assert any("distill/kl" in row for row in received.history[name])
    assert received.exit_codes[name] == 0
