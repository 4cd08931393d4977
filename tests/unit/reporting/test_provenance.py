import subprocess
import sys
from pathlib import Path

import pytest

from mimicry.reporting.provenance import git_state, hardware, package_versions, peak_memory_bytes


@pytest.fixture
def repository(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    for variable in ("GIT_DIR", "GIT_WORK_TREE", "GIT_INDEX_FILE"):
        monkeypatch.delenv(variable, raising=False)
    identity = ["-c", "user.name=A", "-c", "user.email=a@example.org", "-c", "commit.gpgsign=false"]
    (tmp_path / "file.txt").write_text("one\n", encoding="utf-8")
    for arguments in (["init", "-q"], ["add", "file.txt"], [*identity, "commit", "-q", "-m", "first"]):
        subprocess.run(["git", *arguments], cwd=tmp_path, check=True)
    return tmp_path


def test_a_clean_repository_gives_its_commit(repository: Path) -> None:
    commit, dirty = git_state(repository)
    assert commit is not None
    assert len(commit) == 40
    assert dirty is False


@pytest.mark.parametrize("name", ["file.txt", "new.txt"])
def test_a_changed_or_new_file_makes_the_repository_dirty(repository: Path, name: str) -> None:
    (repository / name).write_text("two\n", encoding="utf-8")
    assert git_state(repository)[1] is True


def test_outside_a_repository_nothing_is_known(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GIT_CEILING_DIRECTORIES", str(tmp_path.parent))
    assert git_state(tmp_path) == (None, None)
    assert git_state(tmp_path / "absent") == (None, None)


def test_without_git_nothing_is_known(repository: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "")
    assert git_state(repository) == (None, None)


def test_versions_come_without_importing_the_packages() -> None:
    program = (
        "import sys; from mimicry.reporting.provenance import hardware, package_versions;"
        "versions = package_versions(); hardware();"
        "assert {'python', 'torch', 'transformers'} <= versions.keys(); assert 'torch' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", program], check=True)
    assert package_versions()["python"].startswith("3.")


def test_the_machine_is_described_in_plain_values() -> None:
    machine = hardware()
    assert set(machine) == {"cpu", "physical_cores", "logical_cores", "memory_bytes", "gpu"}
    assert machine["cpu"]
    assert machine["logical_cores"] >= 1


def test_peak_memory_is_in_bytes() -> None:
    peak = peak_memory_bytes()
    assert peak is not None
    assert peak > 10 * 1024**2
