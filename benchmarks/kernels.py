"""What the Triton kernels ask of a GPU, from the compiler alone: registers, spilled bytes, shared memory.

    python benchmarks/kernels.py --widths 64 128 --save results/kernel_resources

Compiles each kernel ahead of time with the tiles that attention would take; needs Triton, and no GPU. Registers and
spilled bytes are per thread, shared memory is per program. A GPU of compute capability 9.0 has 255 registers for a
thread and 227 KiB for a program, one of 8.0 has 163 KiB. Says what fits, not how fast it is.
"""

import argparse
import re
import subprocess
import tempfile
from dataclasses import astuple, dataclass, fields
from pathlib import Path
from typing import Any

import torch
import triton
from measuring import save_table
from rich.console import Console
from triton.backends.compiler import GPUTarget
from triton.runtime import driver
from triton.runtime.jit import JITFunction

from mimicry.attention.state import LinearState
from mimicry.attention.triton import WIDTHS, decoding, launch
from mimicry.attention.triton.problem import INTERPRETED, Problem
from mimicry.attention.triton.tiles import Plan, default_plan
from mimicry.reporting.tables import markdown_table

DTYPES = {"bfloat16": torch.bfloat16, "float16": torch.float16, "float32": torch.float32}
TOKENS, HEADS = 256, 4
DUMP = Path(triton.__file__).parent / "backends/nvidia/bin/cuobjdump"


@dataclass(frozen=True)
class Resources:
    """Of one kernel as it is compiled for these inputs."""

    capability: int
    dtype: str
    width: int
    direction: str
    kernel: str
    num_warps: int
    registers: int
    spilled_bytes: int
    shared_bytes: int


class AbsentGPU:
    """What Triton asks of a driver before it compiles."""

    def __init__(self, capability: int) -> None:
        self.target = GPUTarget("cuda", capability, 32)

    def get_current_target(self) -> GPUTarget:
        return self.target

    def get_current_device(self) -> tuple[int, int]:
        """Kernels are kept by device: one of another capability is another device."""
        return 0, self.target.arch

    def get_current_stream(self, device: Any) -> int:
        return 0


def compile_only() -> dict[str, Any]:
    """From now on kernels that are launched are compiled and not run; by name, the latest."""
    binaries: dict[str, Any] = {}
    run = JITFunction.run

    def compiles(kernel: Any, *arguments: Any, warmup: bool, **options: Any) -> None:
        binaries[kernel.__name__] = run(kernel, *arguments, warmup=True, **options)

    JITFunction.run = compiles
    return binaries


def resources(binaries: dict[str, Any], capability: int, dtype: str, width: int, causal: bool) -> list[Resources]:
    """Of every kernel of both passes and of decoding, heads, values and maps `width` wide.

    Args:
        binaries: where `compile_only` leaves them.
        capability: of the GPU, major times 10 plus minor.
        dtype: of q, k and v.
        width: in numbers.
        causal: direction.
    """
    binaries.clear()
    driver.set_active(AbsentGPU(capability))
    torch_dtype = DTYPES[dtype]
    plan = default_plan(width, torch_dtype, torch.device("cuda"))
    plan = Plan(plan.forward, plan.backward, segment=2 * plan.step)
    q, k, v = torch.randn(3, 1, HEADS, TOKENS, width).to(torch_dtype)
    weight, bias = torch.randn(HEADS, width, width), torch.randn(HEADS, 1, width)
    shift = None if causal else torch.zeros(1, HEADS, 1, 2 * width)
    problem = Problem(q, k, v, weight, bias, weight, bias, None, shift, causal, 1e-30, plan)
    y, normalisers, states = launch.outputs(problem)
    launch.gradients(problem, q, y, normalisers, states)
    if causal:
        sums = torch.zeros(1, HEADS, 2 * width)
        state = LinearState(torch.zeros(1, HEADS, 2 * width, width), sums, sums[:, :, None].clone(), 0)
        decoding.launch_step(problem, state)
    direction = "causal" if causal else "bidirectional"
    return [Resources(capability, dtype, width, direction, name, *_used(binary)) for name, binary in binaries.items()]


def _used(binary: Any) -> tuple[int, int, int, int]:
    """Warps, registers, spilled bytes and shared bytes."""
    with tempfile.NamedTemporaryFile(suffix=".cubin") as file:
        file.write(binary.asm["cubin"])
        file.flush()
        said = subprocess.run([DUMP, "-res-usage", file.name], capture_output=True, text=True, check=True).stdout
    found = re.search(r"REG:(\d+) STACK:(\d+)", said)
    assert found is not None, said
    return binary.metadata.num_warps, int(found[1]), int(found[2]), binary.metadata.shared


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--capabilities", type=int, nargs="+", default=[90], help="80: A100, 90: H100")
    parser.add_argument("--dtypes", nargs="+", choices=DTYPES, default=["bfloat16", "float32"])
    parser.add_argument("--widths", type=int, nargs="+", choices=WIDTHS, default=[64])
    parser.add_argument("--save", type=Path, help="folder for table.md and table.csv")
    options = parser.parse_args()
    if INTERPRETED:
        parser.error("TRITON_INTERPRET must not be set, for kernels to be compiled")
    binaries, found = compile_only(), []
    for capability in options.capabilities:
        for dtype in options.dtypes:
            for width in options.widths:
                if dtype == "float32" and width > 64:
                    continue
                for causal in (True, False):
                    found += resources(binaries, capability, dtype, width, causal)
    header = [field.name.replace("_", " ") for field in fields(Resources)]
    markdown = markdown_table([header, *([str(value) for value in astuple(one)] for one in found)])
    Console().print(markdown, markup=False, soft_wrap=True)
    if options.save is not None:
        save_table(markdown, found, options.save)


if __name__ == "__main__":
    main()
