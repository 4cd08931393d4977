"""Distillation in two processes under Lightning's DDP, on CPUs."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import parallel
import pytest
import torch


def run_in_two_processes(path: Path) -> None:
    command = [sys.executable, parallel.__file__, "2", str(path)]
    # In a session of their own, so that none is left behind.
    main = subprocess.Popen(command, stderr=subprocess.PIPE, text=True, start_new_session=True)
    try:
        _, said = main.communicate(timeout=500)
    except subprocess.TimeoutExpired:
        os.killpg(main.pid, signal.SIGKILL)
        raise
    assert main.returncode == 0, said[-3000:]


# Every process imports everything anew: seconds, but minutes on a machine that is busy.
@pytest.mark.timeout(600)
@pytest.mark.filterwarnings("ignore:.*does not have many workers", "ignore:.*smaller than the logging interval")
@pytest.mark.filterwarnings("ignore:.*in eval mode at the start", "ignore:.*isinstance.treespec:FutureWarning")
def test_two_processes_end_with_the_maps_of_one_that_sees_the_same_global_batches(tmp_path: Path) -> None:
    run_in_two_processes(tmp_path / "two")
    parallel.main(1, tmp_path / "one")
    one, first, second = (torch.load(tmp_path / name) for name in ("one.0", "two.0", "two.1"))
    assert [result["processes"] for result in (one, first, second)] == [1, 2, 2]
    assert [result["steps"] for result in (one, first, second)] == [parallel.STEPS] * 3
    for name, expected in one["maps"].items():
        assert torch.equal(first["maps"][name], second["maps"][name])
        torch.testing.assert_close(first["maps"][name], expected, rtol=0, atol=1e-6)
    moved = max(float((one["maps"][name] - start).abs().max()) for name, start in one["start"].items())
    assert moved > 1e-3
    for name, weights in one["teacher"].items():
        assert torch.equal(first["teacher"][name], weights)
        assert torch.equal(second["teacher"][name], weights)
