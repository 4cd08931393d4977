"""What a training step of a whole model costs from scratch: linear attentions and torch's softmax kernel, side by side.

Decoders that differ in nothing but their attention take a step of forward pass, backward pass and AdamW on the same
random tokens, in turns in one process; medians count, and ratios more than times. MFU is the share of a large matrix
product's speed that the model's own operations take (`mimicry.models.flops`).

    python benchmarks/training_step.py --tokens 512 4096 --save results/training_step
    python benchmarks/training_step.py --layers 12 --heads 12 --vocabulary 50257 --repetitions 3   (GPT-2 small)
"""

import argparse
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import torch
from measuring import extra_bytes, in_fresh_process, matmul_flops_per_s, medians, write_csv
from rich.console import Console
from rich.progress import track
from rich.table import Table

from mimicry.attention.shipped import load_variant, shipped_variants
from mimicry.models import Decoder, DecoderSizes
from mimicry.models.compiling import compile_model
from mimicry.reporting.provenance import git_state, hardware

BASELINE = "softmax"


@dataclass(frozen=True)
class Setting:
    """The model without its attention, and its batch."""

    tokens: int
    batch: int
    layers: int
    heads: int
    width: int
    vocabulary: int
    device: str
    autocast: bool
    compiled: bool
    threads: int


@dataclass(frozen=True)
class Measured:
    """One line of the result; memory is None where the system does not tell."""

    tokens: int
    contender: str
    median_s: float
    tokens_per_s: float
    ratio: float
    mfu: float
    extra_bytes: int | None


def build(attn: str, setting: Setting) -> Decoder:
    """A decoder with random weights; those of one setting differ in their attention alone."""
    torch.manual_seed(0)
    hidden = setting.heads * setting.width
    sizes = DecoderSizes(setting.layers, hidden, setting.heads, 4 * hidden)
    return Decoder(sizes, setting.vocabulary, setting.tokens, load_variant(attn)).to(setting.device)


def step_of(model: Decoder, setting: Setting) -> Callable[[], None]:
    """One step of training on random tokens."""
    if setting.compiled:
        compile_model(model)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-4, weight_decay=0.1, fused=True)
    ids = torch.randint(setting.vocabulary, (setting.batch, setting.tokens), device=setting.device)

    def step() -> None:
        with torch.autocast(torch.device(setting.device).type, torch.bfloat16, enabled=setting.autocast):
            loss = model(ids, labels=ids).loss
        loss.backward()
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)

    return step


def _extra_bytes(attn: str, setting: Setting) -> int | None:
    torch.set_num_threads(setting.threads)

    def make() -> Callable[[], None]:
        step = step_of(build(attn, setting), setting)
        # Optimizer states and what libraries allocate once are no matter of the attention; they stand before the step.
        step()
        return step

    return extra_bytes(make, setting.device)


def measure(setting: Setting, names: list[str], options: argparse.Namespace, matmul: float) -> list[Measured]:
    """All contenders of one setting, the baseline first."""
    models = {name: build(name, setting) for name in names}
    # A model has its operations counted before it is compiled.
    work = {name: setting.batch * model.training_flops(setting.tokens) for name, model in models.items()}
    steps = {name: step_of(model, setting) for name, model in models.items()}
    times = medians(steps, setting.device, options.repetitions, least_s=0.2)
    tokens = setting.batch * setting.tokens
    return [
        Measured(
            setting.tokens,
            name,
            seconds,
            tokens / seconds,
            times[BASELINE] / seconds,
            work[name] / seconds / matmul,
            in_fresh_process(_extra_bytes, name, setting) if options.memory else None,
        )
        for name, seconds in times.items()
    ]


def table(lines: list[Measured], title: str) -> Table:
    columns = ("tokens", "attention", "step (ms)", "tokens/s", "ratio", "MFU", "extra memory (MB)")
    result = Table(*columns, title=title)
    for line in lines:
        memory = "" if line.extra_bytes is None else f"{line.extra_bytes / 1e6:,.0f}"
        numbers = (f"{1000 * line.median_s:,.0f}", f"{line.tokens_per_s:,.0f}", f"{line.ratio:.2f}x", f"{line.mfu:.0%}")
        result.add_row(f"{line.tokens:,}", line.contender, *numbers, memory)
    return result


def save(lines: list[Measured], folder: Path, shown: Table) -> None:
    """Writes table.csv and table.md."""
    folder.mkdir(parents=True, exist_ok=True)
    write_csv(lines, folder / "table.csv")
    commit, dirty = git_state(Path(__file__).parent)
    machine = ", ".join(f"{name} {value}" for name, value in hardware().items() if value is not None)
    console = Console(width=130)
    with console.capture() as text:
        console.print(shown)
    head = f"# A training step\n\nCommit {commit}{' with changes' if dirty else ''}; {machine}.\n\n"
    (folder / "table.md").write_text(head + "```\n" + text.get() + "```\n", encoding="utf-8")


def main() -> None:
    parser = argparse.ArgumentParser(description="A training step of decoders that differ in their attention.")
    ours = [name for name in shipped_variants() if name != BASELINE]
    parser.add_argument("--variants", nargs="+", default=["hedgehog"], choices=ours, help="besides softmax")
    parser.add_argument("--tokens", type=int, nargs="+", default=[512, 4096], help="sequence lengths")
    parser.add_argument("--batch", type=int, default=1, help="sequences")
    parser.add_argument("--layers", type=int, default=4, help="layers")
    parser.add_argument("--heads", type=int, default=4, help="heads")
    parser.add_argument("--width", type=int, default=64, help="head dim")
    parser.add_argument("--vocabulary", type=int, default=4096, help="tokens of the vocabulary")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu", help="torch device")
    parser.add_argument("--bf16", action="store_true", help="autocast to bfloat16")
    parser.add_argument("--compile", action="store_true", help="torch.compile around what it can trace")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads(), help="CPU threads of torch")
    parser.add_argument("--repetitions", type=int, default=5, help="timed turns; medians are shown")
    parser.add_argument("--no-memory", dest="memory", action="store_false", help="leave out peak memory")
    parser.add_argument("--save", type=Path, help="folder for table.md and table.csv")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    dtype = torch.bfloat16 if options.bf16 else torch.float32
    matmul = matmul_flops_per_s(dtype, options.device)
    shape = {name: getattr(options, name) for name in ("batch", "layers", "heads", "width", "vocabulary", "device")}
    setting = partial(Setting, **shape, autocast=options.bf16, compiled=options.compile, threads=options.threads)
    names = [BASELINE, *options.variants]
    lines: list[Measured] = []
    for tokens in track(options.tokens, description="measuring"):
        lines += measure(setting(tokens=tokens), names, options, matmul)
    where = f"{options.threads} threads" if options.device == "cpu" else options.device
    made = f"{options.layers} layers, {options.heads} x {options.width}, vocabulary {options.vocabulary:,}"
    ways = f"{'bf16' if options.bf16 else 'float32'}{', compiled' if options.compile else ''}, {where}"
    title = f"{made}, batch {options.batch}, {ways}; matrix products run at {matmul / 1e9:,.0f} GFLOP/s"
    shown = table(lines, title)
    Console(width=130).print(shown)
    if options.save:
        save(lines, options.save, shown)


if __name__ == "__main__":
    main()
