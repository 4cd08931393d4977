"""What a sweep tells while it runs."""

import json
import logging
from dataclasses import replace
from pathlib import Path

import pytest
from rich.console import Console

from mimicry.sweeps import STATE, Job, followed, jobs, main, overview, progress

ELU = Job(0, "attn=elu", 3)


def follow(sweep: Path, job: Job, error: Exception | None = None, fail_fast: bool = False) -> None:
    with followed(job, sweep, fail_fast) as tells:
        tells.reused = job.reused
        if error is not None:
            raise error


def test_a_job_runs_while_it_is_followed_and_is_finished_then(tmp_path: Path) -> None:
    with followed(ELU, tmp_path, fail_fast=False):
        assert jobs(tmp_path) == [ELU]
    (job,) = jobs(tmp_path)
    assert job == replace(ELU, state="finished", wall_s=job.wall_s)


def test_a_failed_job_keeps_its_reason_and_raises(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO, "mimicry"), pytest.raises(ValueError, match="too short"):
        follow(tmp_path, ELU, ValueError("too short"))
    assert jobs(tmp_path)[0].reason == "ValueError: too short"
    assert caplog.messages[-1] == "Job 0 failed: ValueError: too short; 0 of 3 finished, 1 failed"


def test_with_fail_fast_no_job_starts_after_one_has_failed(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="too short"):
        follow(tmp_path, ELU, ValueError("too short"), fail_fast=True)
    message = r"not started: job 0 \(attn=elu\) has failed, and fail_fast=true"
    with pytest.raises(ValueError, match=message):
        follow(tmp_path, Job(1, "attn=relu", 3), fail_fast=True)
    follow(tmp_path, Job(2, "attn=taylor", 3))
    assert [job.number for job in jobs(tmp_path)] == [0, 2]


def test_a_job_whose_process_is_gone_is_interrupted(tmp_path: Path) -> None:
    follow(tmp_path, ELU)
    state = tmp_path / "0" / STATE
    # As it was in the middle of the job; nobody holds its lock.
    state.write_text(json.dumps(json.loads(state.read_text()) | {"state": "running", "wall_s": None}))
    assert jobs(tmp_path)[0].state == "interrupted"
    assert progress(jobs(tmp_path)) == "0 of 3 finished, 1 interrupted"


def test_time_left_is_that_of_jobs_which_really_ran_over_those_running() -> None:
    ran = [replace(ELU, number=n, total=12, state="finished", wall_s=300.0) for n in range(2)]
    reused = replace(ELU, number=2, total=12, state="finished", wall_s=0.1, reused=True)
    running = [replace(ELU, number=n, total=12) for n in (3, 4)]
    # Nine are left, two at a time.
    assert progress([*ran, reused, *running]) == "3 of 12 finished, 2 running, about 22 min left"
    assert progress([reused]) == "1 of 12 finished"
    assert progress([replace(job, total=None) for job in ran]) == "2 finished"
    assert progress([replace(job, total=2) for job in ran]) == "2 of 2 finished"


def test_the_table_names_every_job(tmp_path: Path) -> None:
    follow(tmp_path, replace(ELU, reused=True))
    with pytest.raises(OSError, match="no space"):
        follow(tmp_path, Job(1, "attn=relu", 3), OSError("no space"))
    console = Console(width=200)
    with console.capture() as shown:
        console.print(overview(jobs(tmp_path)))
    assert "finished, earlier" in shown.get()
    assert "failed: OSError: no space" in shown.get()


def test_the_command_shows_the_sweep_that_was_active_last(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    follow(tmp_path / "a" / "2026-01-01", ELU)
    follow(tmp_path / "b" / "2026-01-02", Job(0, "attn=taylor", 1))
    assert main([str(tmp_path)]) == 0
    shown = capsys.readouterr().out
    assert "taylor" in shown
    assert "elu" not in shown
    assert main([str(tmp_path / "none")]) == 1
    assert "found none below" in capsys.readouterr().err
