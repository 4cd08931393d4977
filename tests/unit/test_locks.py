"""Locks between real processes."""

import logging
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from mimicry.locks import held, is_held

# Holds the lock until it is killed or its input ends.
HOLDER = """
import sys
from pathlib import Path
from mimicry.locks import held
with held(Path(sys.argv[1]), "holds"):
    print("held", flush=True)
    sys.stdin.read()
"""


@pytest.fixture
def holder(tmp_path: Path) -> Iterator[subprocess.Popen]:
    command = [sys.executable, "-c", HOLDER, str(tmp_path / "a.lock")]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        assert process.stdout.readline() == b"held\n"
        yield process
        process.kill()


def test_another_process_waits_and_says_for_whom(
    holder: subprocess.Popen, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    assert is_held(tmp_path / "a.lock")
    release = threading.Timer(0.5, holder.stdin.close)
    release.start()
    with caplog.at_level(logging.INFO, "mimicry"), held(tmp_path / "a.lock", "trains the same teacher"):
        # It lets go only when it has been told to end.
        assert holder.stdin.closed
        assert holder.wait() == 0
    assert caplog.messages == ["waiting for another process, which trains the same teacher"]


def test_the_lock_of_a_killed_process_is_free(holder: subprocess.Popen, tmp_path: Path) -> None:
    holder.kill()
    holder.wait()
    assert not is_held(tmp_path / "a.lock")
    with held(tmp_path / "a.lock", "runs"):
        assert is_held(tmp_path / "a.lock")


def test_further_processes_of_a_distributed_job_do_not_wait_for_its_first(
    holder: subprocess.Popen, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("LOCAL_RANK", "1")
    with held(tmp_path / "a.lock", "runs"):
        assert holder.poll() is None


def test_asking_leaves_no_file(tmp_path: Path) -> None:
    assert not is_held(tmp_path / "a.lock")
    assert list(tmp_path.iterdir()) == []
