"""Where a result came from: the commit, the package versions, the machine. Nothing here fails a run."""

import os
import platform
import subprocess
import sys
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

PACKAGES = ("mimicry", "torch", "lightning", "transformers", "datasets", "torchmetrics", "hydra-core", "wandb", "numpy")
_GIT_TIMEOUT_S = 10


def git_state(folder: Path) -> tuple[str | None, bool | None]:
    """The commit checked out in `folder` and whether any file differs from it or is new; (None, None) without git."""
    commit = _git(folder, "rev-parse", "--verify", "HEAD")
    changes = _git(folder, "status", "--porcelain")
    if commit is None or changes is None:
        return None, None
    return commit, changes != ""


def package_versions() -> dict[str, str]:
    """Versions of Python and of the packages that shape a result, from their metadata: nothing is imported."""
    versions = {"python": platform.python_version()}
    for name in PACKAGES:
        try:
            versions[name] = version(name)
        except PackageNotFoundError:
            continue
    return versions


def hardware() -> dict[str, str | int | None]:
    """The processor, its cores, the memory in bytes and the first CUDA device; None where the system does not tell."""
    cpu_model, physical_cores = _linux_cpu(Path("/proc/cpuinfo"))
    return {
        "cpu": cpu_model or platform.processor() or platform.machine(),
        "physical_cores": physical_cores,
        "logical_cores": os.cpu_count(),
        "memory_bytes": _memory_bytes(),
        "gpu": _gpu_name(),
    }


def peak_memory_bytes() -> int | None:
    """Largest resident size of this process so far; None on systems without getrusage."""
    try:
        import resource
    except ImportError:
        return None
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    # Linux counts in KiB, macOS in bytes.
    return peak if sys.platform == "darwin" else peak * 1024


def _git(folder: Path, *arguments: str) -> str | None:
    command = ["git", "-C", str(folder), *arguments]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=_GIT_TIMEOUT_S, check=False)
    except (OSError, subprocess.TimeoutExpired):
        return None
    return done.stdout.strip() if done.returncode == 0 else None


def _linux_cpu(cpuinfo: Path) -> tuple[str | None, int | None]:
    try:
        blocks = cpuinfo.read_text(encoding="utf-8").strip().split("\n\n")
    except OSError:
        return None, None
    processors = [
        {key.strip(): value.strip() for key, _, value in (line.partition(":") for line in block.splitlines())}
        for block in blocks
    ]
    cores = {(entry.get("physical id"), entry["core id"]) for entry in processors if "core id" in entry}
    return processors[0].get("model name"), len(cores) or None


def _memory_bytes() -> int | None:
    try:
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    except (AttributeError, ValueError, OSError):
        return None


def _gpu_name() -> str | None:
    # A record must not cost an import of torch; a run that used a GPU has imported it already.
    torch = sys.modules.get("torch")
    if torch is None or not torch.cuda.is_available():
        return None
    return torch.cuda.get_device_name(0)
