"""How fast attention is: variant x length x mode against torch's own softmax kernels and the installed peers.

Everything of a row runs in turns in one process; ratios are what counts. Peak memory is measured in processes of their
own. Writes table.md, table.csv and figure.png, and mirrors them to W&B.

    python benchmarks/attention.py --tokens 512 4096 16384 --save results/attention_speed
    python benchmarks/attention.py --modes forward --batch 16 --tokens 128 --directions bidirectional
"""

import argparse
import logging
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path

import torch
from contenders import MODES, PEERS, Cell, flops, installed, step_of
from figure import cost_figure
from measuring import extra_bytes, in_fresh_process, matmul_flops_per_s, medians, write_csv
from rich.console import Console
from rich.progress import track
from rich.table import Table

from mimicry.attention.shipped import shipped_variants
from mimicry.reporting.provenance import git_state, hardware, package_versions
from mimicry.reporting.tracking import MODES as TRACKING_MODES
from mimicry.reporting.tracking import TrackedJob, resolve_mode, wandb_run

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}
# Slower than this share of the baseline is known by then; peers that take minutes a step are left out beyond.
PEER_TOKENS = 4096


@dataclass(frozen=True)
class Measured:
    """One line of the result; times in seconds, memory in bytes, None where it was not to be had."""

    mode: str
    direction: str
    tokens: int
    contender: str
    median_s: float
    ratio: float
    extra_bytes: int | None
    share_of_matmul: float | None


def measure(cell: Cell, names: list[str], options: argparse.Namespace, matmul: float) -> list[Measured]:
    """All contenders of one cell, the baseline first."""
    steps = {}
    for name in (cell.baseline, *names):
        if name in PEERS and cell.tokens > PEER_TOKENS and cell.device == "cpu":
            continue
        step = step_of(name, cell)
        if step is not None:
            steps[name] = step
    times = medians(steps, cell.device, options.repetitions, options.least_s)
    found = []
    for name, seconds in times.items():
        work = flops(name, cell)
        memory = None
        if options.memory and cell.mode in ("train", "distillation"):
            memory = in_fresh_process(_extra_bytes, name, cell)
        direction = "causal" if cell.causal else "bidirectional"
        share = None if work is None else work / seconds / matmul
        ratio = times[cell.baseline] / seconds
        found.append(Measured(cell.mode, direction, cell.tokens, name, seconds, ratio, memory, share))
    return found


def _extra_bytes(name: str, cell: Cell) -> int | None:
    def make():
        # What libraries allocate once is not the step's.
        small = step_of(name, Cell(**(asdict(cell) | {"tokens": 64})))
        step = step_of(name, cell)
        assert small is not None
        assert step is not None
        small()
        return step

    return extra_bytes(make, cell.device)


def cells(options: argparse.Namespace) -> list[Cell]:
    """Every cell asked for; decoding has one direction."""
    sizes = (options.batch, options.heads, options.width, DTYPES[options.dtype], options.device, options.threads)
    return [
        Cell(mode, direction == "causal", tokens, *sizes)
        for mode in options.modes
        for direction in options.directions
        for tokens in options.tokens
        if mode != "decode" or direction == "causal"
    ]


def table(lines: list[Measured], title: str) -> Table:
    columns = (
        "mode",
        "direction",
        "tokens",
        "contender",
        "median (ms)",
        "ratio",
        "extra memory (MB)",
        "of matmul rate",
    )
    result = Table(*columns, title=title)
    for line in lines:
        memory = "" if line.extra_bytes is None else f"{line.extra_bytes / 1e6:.1f}"
        share = "" if line.share_of_matmul is None else f"{line.share_of_matmul:.0%}"
        numbers = (f"{1000 * line.median_s:.3f}", f"{line.ratio:.2f}x", memory, share)
        result.add_row(line.mode, line.direction, f"{line.tokens:,}", line.contender, *numbers)
    return result


def save(lines: list[Measured], folder: Path, title: str, shown: Table, missing: list[str]) -> None:
    """Writes table.csv, table.md and figure.png."""
    folder.mkdir(parents=True, exist_ok=True)
    write_csv(lines, folder / "table.csv")
    commit, dirty = git_state(Path(__file__).parent)
    text = Console(record=True, width=130, file=(folder / "table.txt").open("w", encoding="utf-8"))
    text.print(shown)
    (folder / "table.txt").unlink()
    absent = f" Not installed: {', '.join(missing)}." if missing else ""
    machine = ", ".join(f"{name} {value}" for name, value in hardware().items() if value is not None)
    head = f"# {title}\n\nCommit {commit}{' with changes' if dirty else ''}; {machine}.{absent}\n\n"
    (folder / "table.md").write_text(head + "```\n" + text.export_text() + "```\n", encoding="utf-8")
    cost_figure(lines).savefig(folder / "figure.png", dpi=150)


def main() -> None:
    parser = argparse.ArgumentParser(description="Attention against softmax kernels and peers, side by side.")
    ours = [name for name in shipped_variants() if name != "softmax"]
    parser.add_argument("--variants", nargs="+", default=["hedgehog"], choices=ours, help="our variants")
    parser.add_argument("--peers", nargs="*", default=list(PEERS), choices=list(PEERS), help="run where installed")
    parser.add_argument("--modes", nargs="+", default=list(MODES), choices=MODES, help="what to time")
    both = ["causal", "bidirectional"]
    parser.add_argument("--directions", nargs="+", default=both, choices=both, help="who sees whom")
    parser.add_argument("--tokens", type=int, nargs="+", default=[512, 4096], help="sequence lengths")
    parser.add_argument("--batch", type=int, default=1, help="sequences")
    parser.add_argument("--heads", type=int, default=12, help="heads")
    parser.add_argument("--width", type=int, default=64, help="head dim")
    parser.add_argument("--dtype", default="float32", choices=DTYPES, help="of q, k and v")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu", help="torch device")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads(), help="CPU threads of torch")
    parser.add_argument("--repetitions", type=int, default=7, help="timed turns; medians are shown")
    parser.add_argument("--least-s", type=float, default=0.2, help="each turn takes at least about this long, seconds")
    parser.add_argument("--no-memory", dest="memory", action="store_false", help="leave out peak memory")
    parser.add_argument("--save", type=Path, help="folder for table.md, table.csv and figure.png")
    parser.add_argument("--wandb", default="auto", choices=TRACKING_MODES, help="mirror of what is saved")
    options = parser.parse_args()
    logging.getLogger("mimicry").setLevel(logging.WARNING)

    missing = [name for name in options.peers if not installed(name)]
    names = [*options.variants, "streamed", *(name for name in options.peers if name not in missing)]
    torch.set_num_threads(options.threads)
    matmul = matmul_flops_per_s(DTYPES[options.dtype], options.device)
    lines: list[Measured] = []
    for cell in track(cells(options), description="measuring"):
        lines += measure(cell, names, options, matmul)
    where = f"{options.threads} threads" if options.device == "cpu" else options.device
    sizes = f"batch {options.batch}, {options.heads} x {options.width}, {options.dtype}, {where}"
    title = f"Attention, {sizes}; matrix products run at {matmul / 1e9:,.0f} GFLOP/s"
    shown = table(lines, title)
    Console(width=130).print(shown)
    if missing:
        Console().print(f"not installed, left out: {', '.join(missing)}")
    if options.save:
        save(lines, options.save, title, shown, missing)
        mirror(lines, options, title)


def mirror(lines: list[Measured], options: argparse.Namespace, title: str) -> None:
    """The same table and figure in W&B."""
    mode, _ = resolve_mode(options.wandb)
    if mode == "disabled":
        return
    import wandb

    started = datetime.now(UTC).strftime("%Y%m%d-%H%M%S")
    config = {key: str(value) for key, value in vars(options).items()} | package_versions()
    job = TrackedJob("mimicry", f"speed-{started}", title, "benchmark", "benchmark", ("benchmark",), config)
    folder = Path("results") / "runs" / "benchmark"
    folder.mkdir(parents=True, exist_ok=True)
    with wandb_run(job, folder, mode) as run:
        rows = [list(asdict(line).values()) for line in lines]
        run.log(
            {
                "benchmark/table": wandb.Table(columns=list(asdict(lines[0])), data=rows),
                "benchmark/figure": wandb.Image(str(options.save / "figure.png")),
            }
        )


if __name__ == "__main__":
    main()
