"""Builds the C files of this folder with the machine's compiler, once for each kind of machine."""

import ctypes
import functools
import hashlib
import logging
import os
import platform
import shutil
import subprocess
from pathlib import Path

from mimicry.assets import cache_root

log = logging.getLogger(__name__)

FOLDER = Path(__file__).parent
FLAGS = ("-O3", "-march=native", "-fno-math-errno", "-fno-trapping-math", "-fPIC", "-shared")
# OpenMP's threads are those of torch, which has loaded the same library; without it there is one thread.
THREADS = ("-fopenmp",)
TIMEOUT_S = 60


@functools.cache
def library() -> ctypes.CDLL | None:
    """The functions of this folder's C files; None where they cannot be built, which is said once.

    The compiler is `cc`, or what the environment variable CC names.
    """
    compiler = shutil.which(os.environ.get("CC", "cc"))
    if compiler is None:
        log.info("attention on CPUs: no C compiler (CC names one), so torch's own operations run instead")
        return None
    try:
        return ctypes.CDLL(str(built(compiler)))
    except (OSError, subprocess.SubprocessError) as error:
        said = (getattr(error, "stderr", None) or str(error)).strip().splitlines()
        log.info("attention on CPUs: not compiled, so torch's own operations run instead (%s)", said[-1:])
        return None


def built(compiler: str) -> Path:
    """The shared library, from the cache where the same was built on such a machine before.

    Raises:
        OSError: if the compiler or the cache cannot be used.
        subprocess.SubprocessError: if the compiler fails, or takes longer than a minute.
    """
    files = sorted(FOLDER.glob("*.[ch]"))
    # A home folder may be shared by machines whose processors differ.
    made_of = (*(file.read_bytes() for file in files), compiler, FLAGS, platform.platform(), _processor())
    target = cache_root() / "compiled" / f"attention-{hashlib.sha256(repr(made_of).encode()).hexdigest()[:16]}.so"
    if not target.is_file():
        target.parent.mkdir(parents=True, exist_ok=True)
        partial = target.with_suffix(f".{os.getpid()}")
        try:
            _compile(compiler, [str(file) for file in files if file.suffix == ".c"], str(partial))
            partial.replace(target)
        finally:
            partial.unlink(missing_ok=True)
    return target


def _compile(compiler: str, sources: list[str], target: str) -> None:
    try:
        _call(compiler, *FLAGS, *THREADS, "-o", target, *sources, "-lm")
    except subprocess.CalledProcessError:
        _call(compiler, *FLAGS, "-o", target, *sources, "-lm")


def _call(*command: str) -> None:
    subprocess.run(command, check=True, capture_output=True, text=True, timeout=TIMEOUT_S)


def _processor() -> str:
    """What tells processors apart that run different instructions."""
    lines = Path("/proc/cpuinfo")
    if not lines.is_file():
        return platform.processor()
    kinds = ("model name", "flags", "Features", "CPU part")
    return "\n".join(sorted({line for line in lines.read_text().splitlines() if line.startswith(kinds)}))
