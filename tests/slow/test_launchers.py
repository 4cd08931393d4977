"""Sweeps whose jobs another engine starts, on this machine; Slurm alone needs a cluster."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
import yaml
from cli import REPO
from toy import save_toy_checkpoint, write_toy_task

from mimicry.reporting.comparison import read_records
from mimicry.reporting.run_record import RunRecord
from mimicry.sweeps import jobs, latest

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]

ENGINES = {
    "hydra_joblib_launcher": ("hydra/launcher=cores",),
    "hydra_submitit_launcher": ("hydra/launcher=local",),
    "hydra_ray_launcher": ("hydra/launcher=ray",),
    "hydra_optuna_sweeper": (
        *("hydra/sweeper=tuning", "hydra.sweeper.n_trials=2", "attn=elu", "regime.holdout_rows=32"),
        *("regime.recover.learning_rate=tag(log,interval(1e-5,1e-3))", "regime.recover.epochs=[1,2]"),
    ),
}


@pytest.mark.parametrize("plugin", ENGINES)
def test_an_engine_runs_every_job_of_a_checkout_that_is_not_installed(plugin: str, tmp_path: Path) -> None:
    pytest.importorskip(f"hydra_plugins.{plugin}", reason=f"{plugin} is not installed")
    (tmp_path / "tiny").mkdir()
    save_toy_checkpoint(tmp_path / "tiny")
    write_toy_task(tmp_path / "glue", train_rows=64)
    sweep = () if plugin == "hydra_optuna_sweeper" else ("attn=elu,hedgehog",)
    arguments = (
        *("task=sst2", f"task.root={tmp_path / 'glue'}", f"model.path={tmp_path / 'tiny'}", "model.max_length=32"),
        *("logger.mode=disabled", "trainer.accelerator=cpu", "callbacks.progress=null", "regime.distill.max_rows=32"),
        f"paths.results={tmp_path / 'results'}",
    )
    environment = {key: value for key, value in os.environ.items() if key != "PYTHONPATH"}
    done = subprocess.run(
        [sys.executable, "run.py", "-m", *arguments, *sweep, *ENGINES[plugin]],
        cwd=REPO,
        env=environment | {"MIMICRY_CACHE": str(tmp_path / "cache")},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert [job.state for job in jobs(latest(tmp_path / "results"))] == ["finished", "finished"]
    records = read_records(tmp_path / "results" / "runs")
    assert [record.status for record in records] == ["finished", "finished"]
    # One of them trained the teacher, whichever started first.
    assert sorted(record.stages[0].reused for record in records) == [False, True]
    if plugin == "hydra_optuna_sweeper":
        check_choice(latest(tmp_path / "results"), records)


def check_choice(sweep: Path, records: list[RunRecord]) -> None:
    """Optuna has drawn the learning rates, and chosen by the held-out rows, not by those that are reported."""
    held_out = {}
    for record in records:
        (chosen,) = (trial for trial in record.trials if trial.stage == "recovered" and trial.chosen)
        held_out[chosen.learning_rate] = chosen.held_out
    assert len(held_out) == 2
    assert all(1e-5 <= rate <= 1e-3 for rate in held_out)
    found = yaml.safe_load((sweep / "optimization_results.yaml").read_text(encoding="utf-8"))
    assert found["best_value"] == max(held_out.values())
    assert held_out[found["best_params"]["regime.recover.learning_rate"]] == found["best_value"]
