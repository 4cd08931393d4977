"""Fair timing on busy machines: contenders run in turns, medians count, memory is measured in fresh processes."""

import csv
import multiprocessing
import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch

# Side of the square float32 product that stands for what the machine can do.
MATMUL_SIDE = 2048


def medians(steps: Mapping[str, Callable[[], None]], device: str, repetitions: int, least_s: float) -> dict[str, float]:
    """Median seconds per call of each step, all in turns.

    Args:
        steps: what to time, by name.
        device: torch device the steps run on; accelerators are waited for.
        repetitions: timed turns, >= 1; one more comes first and is not counted.
        least_s: each turn repeats a step until about this long has passed, in seconds.
    """
    calls = {name: max(1, round(least_s / max(_seconds(step, 1, device), 1e-7))) for name, step in steps.items()}
    times: dict[str, list[float]] = {name: [] for name in steps}
    for _ in range(repetitions):
        for name, step in steps.items():
            times[name].append(_seconds(step, calls[name], device))
    return {name: statistics.median(found) for name, found in times.items()}


def write_csv(lines: Sequence[Any], path: Path) -> None:
    """One row for each of these values of one dataclass."""
    with path.open("w", encoding="utf-8", newline="") as file:
        writer = csv.DictWriter(file, fieldnames=list(asdict(lines[0])))
        writer.writeheader()
        writer.writerows(asdict(line) for line in lines)


def save_table(markdown: str, lines: Sequence[Any], folder: Path) -> None:
    """`table.md`, and the same as `table.csv`; the folder is made."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "table.md").write_text(markdown, encoding="utf-8")
    write_csv(lines, folder / "table.csv")


def extra_bytes(make_step: Callable[[], Callable[[], None]], device: str) -> int | None:
    """Bytes by which the second run of a step raises the peak; call it in a process of its own.

    None where the system does not tell.
    """
    step = make_step()
    if device != "cpu":
        step()
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
        step()
        torch.cuda.synchronize()
        return torch.cuda.max_memory_allocated() - before
    try:
        # Forgets the peak that imports left behind (Linux); what is resident now is then the peak.
        Path("/proc/self/clear_refs").write_text("5", encoding="ascii")
        before = _high_water_bytes()
        step()
        return _high_water_bytes() - before
    except OSError:
        return None


def in_fresh_process(function: Callable[..., int | None], *arguments: object) -> int | None:
    """What `function` returns when called in a process that has done nothing else."""
    with multiprocessing.get_context("spawn").Pool(1, maxtasksperchild=1) as pool:
        return pool.apply(function, arguments)


def matmul_flops_per_s(dtype: torch.dtype, device: str) -> float:
    """Floating-point operations per second of a large square matrix product."""
    a, b = torch.randn(2, MATMUL_SIDE, MATMUL_SIDE, device=device).to(dtype)
    seconds = medians({"matmul": lambda: torch.mm(a, b)}, device, repetitions=5, least_s=0.2)["matmul"]
    return 2 * MATMUL_SIDE**3 / seconds


def _seconds(step: Callable[[], None], calls: int, device: str) -> float:
    _wait(device)
    started = time.perf_counter()
    for _ in range(calls):
        step()
    _wait(device)
    return (time.perf_counter() - started) / calls


def _wait(device: str) -> None:
    if device != "cpu":
        torch.cuda.synchronize()


def _high_water_bytes() -> int:
    status = Path("/proc/self/status").read_text(encoding="ascii", errors="replace")
    (line,) = (line for line in status.splitlines() if line.startswith("VmHWM:"))
    return 1024 * int(line.split()[1])
