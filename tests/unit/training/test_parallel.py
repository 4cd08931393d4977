"""Training in two processes, on CPUs: distillation under Lightning's DDP, recovery with all weights sharded."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import parallel
import pytest
import torch


def run_in_two_processes(stage: str, strategy: str, path: Path) -> None:
    command = [sys.executable, parallel.__file__, stage, strategy, "2", str(path)]
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
@pytest.mark.filterwarnings("ignore:You defined a `validation_step`")
@pytest.mark.parametrize(
    ("stage", "strategy"),
    [("distil", "ddp"), ("recover", "sharded"), pytest.param("distil", "sharded", marks=pytest.mark.slow)],
)
def test_two_processes_end_with_the_weights_of_one_that_sees_the_same_global_batches(
    stage: str, strategy: str, tmp_path: Path
) -> None:
    run_in_two_processes(stage, strategy, tmp_path / "two")
    parallel.main(stage, "alone", 1, tmp_path / "one")
    one, first, second = results = [torch.load(tmp_path / name) for name in ("one.0", "two.0", "two.1")]
    assert [result["processes"] for result in results] == [1, 2, 2]
    assert [result["steps"] for result in results] == [parallel.STEPS] * 3
    assert one["end"].keys() == first["end"].keys() == second["end"].keys()
    for name, expected in one["end"].items():
        assert torch.equal(first["end"][name], second["end"][name])
        if torch.equal(expected, one["start"][name]):
            assert torch.equal(first["end"][name], expected)
        torch.testing.assert_close(first["end"][name], expected, rtol=0, atol=1e-6)
    assert max(float((one["end"][name] - start).abs().max()) for name, start in one["start"].items()) > 1e-3
    for kind, whole in one["held"].items():
        shares = [result["held"][kind] for result in (first, second)]
        if (stage, strategy) == ("recover", "sharded"):
            # Odd numbers of rows do not halve.
            assert sum(shares) == whole
            assert max(shares) < 0.51 * whole
        else:
            assert shares == [whole, whole]
