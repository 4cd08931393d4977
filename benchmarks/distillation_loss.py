"""What the distillation loss of one layer costs, streamed against stored weights of all pairs.

Both start from the teacher's q and k and the student's features, and end with the gradients of the features. Times are
medians of runs in turns, so that a busy machine slows both. Peak memory is what a process of its own grows by.

    python benchmarks/distillation_loss.py --tokens 4096 --threads 1
"""

import argparse
import multiprocessing
import resource
import statistics
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass

import torch
from rich.console import Console
from rich.table import Table
from torch import Tensor

from mimicry.attention import AttentionDims, SoftmaxAttention
from mimicry.objectives import soft_cross_entropy, streamed_soft_cross_entropy

# ru_maxrss counts bytes on macOS, KiB elsewhere.
RSS_UNIT = 1 if sys.platform == "darwin" else 1024


@dataclass(frozen=True)
class Sizes:
    """One layer's states: one example, one feature vector of `features` numbers per token and head."""

    tokens: int
    heads: int
    width: int
    features: int


Loss = Callable[[list[Tensor], bool], Tensor]


def stored(given: list[Tensor], causal: bool) -> Tensor:
    """The loss by its definition, through weights of all pairs."""
    q, k, phi_q, phi_k = given
    teacher = SoftmaxAttention(AttentionDims(q.shape[1], q.shape[3], causal)).weights(q, k)
    scores = torch.einsum("bhnf,bhmf->bhnm", phi_q, phi_k)
    scores = scores.tril() if causal else scores
    return soft_cross_entropy(teacher, scores / scores.sum(dim=-1, keepdim=True))


def streamed(given: list[Tensor], causal: bool) -> Tensor:
    return streamed_soft_cross_entropy(*given, causal)[0]


FORMS: dict[str, Loss] = {"stored": stored, "streamed": streamed}


def states(sizes: Sizes) -> list[Tensor]:
    """Random q and k, and features between 0 and 1 that want gradients."""
    q, k = torch.randn(2, 1, sizes.heads, sizes.tokens, sizes.width).unbind()
    phi_q, phi_k = (torch.rand(1, sizes.heads, sizes.tokens, sizes.features).requires_grad_() for _ in range(2))
    return [q, k, phi_q, phi_k]


def step(form: str, given: list[Tensor], causal: bool) -> None:
    """Forward and backward."""
    FORMS[form](given, causal).backward()
    for leaf in given[2:]:
        leaf.grad = None


def growth(form: str, sizes: Sizes, causal: bool, threads: int) -> int:
    """Bytes by which a step raises the peak of this process, which should be a fresh one."""
    torch.set_num_threads(threads)
    # What libraries allocate once is not the loss's.
    step(form, states(Sizes(64, sizes.heads, sizes.width, sizes.features)), causal)
    given = states(sizes)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    step(form, given, causal)
    return (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) * RSS_UNIT


def durations(sizes: Sizes, causal: bool, threads: int, repetitions: int) -> dict[str, float]:
    """Median seconds of a step in each form; the first of each is not counted."""
    torch.set_num_threads(threads)
    given = states(sizes)
    times_s: dict[str, list[float]] = {form: [] for form in FORMS}
    for _ in range(repetitions + 1):
        for form in FORMS:
            started = time.perf_counter()
            step(form, given, causal)
            times_s[form].append(time.perf_counter() - started)
    return {form: statistics.median(times[1:]) for form, times in times_s.items()}


def measure(sizes: Sizes, causal: bool, threads: int, repetitions: int) -> dict[str, tuple[float, int]]:
    """Median seconds and peak bytes of a step in each form."""
    # All of it in processes of their own: they start with this one's peak for theirs.
    with multiprocessing.get_context("spawn").Pool(1, maxtasksperchild=1) as pool:
        peaks = {form: pool.apply(growth, (form, sizes, causal, threads)) for form in FORMS}
        times_s = pool.apply(durations, (sizes, causal, threads, repetitions))
    return {form: (times_s[form], peaks[form]) for form in FORMS}


def main() -> None:
    parser = argparse.ArgumentParser(description="Cost of one layer's distillation loss, streamed against stored.")
    parser.add_argument("--tokens", type=int, nargs="+", default=[512, 1024, 2048], help="sequence lengths")
    parser.add_argument("--heads", type=int, default=12, help="heads of the layer")
    parser.add_argument("--width", type=int, default=64, help="head dim; features are twice as many, as Hedgehog's")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads(), help="CPU threads of torch")
    parser.add_argument("--repetitions", type=int, default=3, help="timed steps per line; medians are shown")
    options = parser.parse_args()

    columns = ("tokens", "attention", "stored (ms)", "streamed (ms)", "faster", "stored (MB)", "streamed (MB)", "share")
    table = Table(*columns, title=f"forward + backward, {options.heads} x {options.width}, {options.threads} threads")
    for tokens in options.tokens:
        sizes = Sizes(tokens, options.heads, options.width, 2 * options.width)
        for causal in (True, False):
            costs = measure(sizes, causal, options.threads, options.repetitions)
            (stored_s, stored_bytes), (streamed_s, streamed_bytes) = costs["stored"], costs["streamed"]
            times = (f"{1000 * stored_s:.0f}", f"{1000 * streamed_s:.0f}", f"{stored_s / streamed_s:.1f}x")
            memory = (
                f"{stored_bytes / 1e6:.0f}",
                f"{streamed_bytes / 1e6:.0f}",
                f"{streamed_bytes / stored_bytes:.1%}",
            )
            table.add_row(str(tokens), "causal" if causal else "bidirectional", *times, *memory)
    Console().print(table)


if __name__ == "__main__":
    main()
