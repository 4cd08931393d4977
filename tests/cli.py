"""The command line as tests call it: in this process, or as a user would."""

import logging
import os
import subprocess
import sys
from pathlib import Path

import pytest

REPO = Path(__file__).resolve().parents[1]


def run_here(monkeypatch: pytest.MonkeyPatch, *arguments: str) -> None:
    """Runs `python run.py ARGUMENTS` in this process; a refusal raises SystemExit with its line."""
    from mimicry.app import main

    monkeypatch.setattr(sys, "argv", ["run.py", *arguments])
    monkeypatch.setenv("MIMICRY_ROOT", str(REPO))
    log = logging.getLogger("mimicry")
    before = log.handlers, log.propagate
    try:
        main(REPO / "conf")
    finally:
        # Other tests read log lines through pytest's own handler.
        log.handlers, log.propagate = before


def run_outside(*arguments: str, timeout: float = 120, **environment: str) -> subprocess.CompletedProcess[str]:
    """Runs `python run.py ARGUMENTS` in a process of its own."""
    return subprocess.run(
        [sys.executable, "run.py", *arguments],
        cwd=REPO,
        env=os.environ | environment,
        capture_output=True,
        text=True,
        timeout=timeout,
        check=False,
    )
