"""Which of several processes this is, where one run uses several devices."""

import os
import sys


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
