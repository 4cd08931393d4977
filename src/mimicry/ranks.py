"""Which of several processes this is, where one run uses several devices."""

import os
import sys
from typing import TypeVar

T = TypeVar("T")
# Set by torchrun and by Slurm, for every process of a run.
SIZES = ("WORLD_SIZE", "SLURM_NTASKS")


def is_main_process() -> bool:
    """Whether this process writes the run's files and talks to the user; the others only compute alongside.

    Read from what torchrun, Slurm or Lightning's own launcher have set, because it must be known before any of them
    has made the processes meet.
    """
    for rank in ("RANK", "SLURM_PROCID"):
        if rank in os.environ:
            return os.environ[rank] == "0"
    return os.environ.get("LOCAL_RANK", "0") == os.environ.get("NODE_RANK", "0") == "0"


def have_met() -> bool:
    """Whether the processes of this run can exchange something: from the first training on at the latest.

    Always False where one process runs alone.
    """
    # Nobody meets without it, and to load it takes seconds.
    distributed = sys.modules.get("torch.distributed")
    return distributed is not None and distributed.is_available() and distributed.is_initialized()


def started_together() -> bool:
    """Whether this process is one of several that torchrun or Slurm has started, which decide nothing on their own.

    What each finds on disk changes while they start: another run may finish, or lock, what they need.
    """
    return any(os.environ.get(size, "1") != "1" for size in SIZES)


def agreed(value: T) -> T:
    """What the first process has found, for all that have met; elsewhere `value` itself.

    All must ask, and in the same order. What is found must be picklable.
    """
    if not have_met():
        return value
    found = [value]
    sys.modules["torch.distributed"].broadcast_object_list(found, src=0)
    return found[0]
