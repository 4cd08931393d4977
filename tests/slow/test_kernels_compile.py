"""The Triton kernels compiled ahead of time for GPUs that need not be here."""

import csv
import os
import subprocess
import sys
from pathlib import Path

import pytest

from mimicry.attention.triton import is_available

pytestmark = pytest.mark.slow

ROOT = Path(__file__).parents[2]
# Of a program, in bytes, by compute capability.
SHARED = {80: 163 * 1024, 90: 227 * 1024}
KERNELS = {"key_states", "scan_states", "outputs", "row_products", "query_gradients", "query_states", "key_gradients"}


@pytest.mark.skipif(not is_available(), reason="Triton is not installed")
@pytest.mark.timeout(1800)
@pytest.mark.parametrize(("capability", "widths"), [(80, ("64",)), (90, ("16", "32", "64", "128"))])
def test_every_kernel_compiles_and_fits(capability: int, widths: tuple[str, ...], tmp_path: Path) -> None:
    # The interpreter, which other tests ask for, would compile nothing.
    environment = {name: value for name, value in os.environ.items() if name != "TRITON_INTERPRET"}
    command = [sys.executable, "benchmarks/kernels.py", "--capabilities", str(capability), "--widths", *widths]
    subprocess.run([*command, "--save", tmp_path], cwd=ROOT, env=environment, check=True, capture_output=True)
    with (tmp_path / "table.csv").open(encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    causal = {row["kernel"] for row in rows if row["direction"] == "causal"}
    assert causal == KERNELS | {"decode_step"}
    assert {row["kernel"] for row in rows if row["direction"] == "bidirectional"} == KERNELS - {"scan_states"}
    assert {row["width"] for row in rows if row["dtype"] == "bfloat16"} == set(widths)
    for row in rows:
        assert int(row["shared_bytes"]) <= SHARED[capability], row
        if row["dtype"] == "bfloat16" and capability == 90:
            # Of the 1,020 bytes that a thread has in registers; the tiles are an H100's, and not meant for float32.
            assert int(row["spilled_bytes"]) <= 300, row
