"""What one step of attention distillation costs, in plain forward passes of the same model.

A step is all that training does with a batch: the teacher's forward pass without gradient, the losses of all layers,
their backward pass into the feature maps, the optimizer. It is timed inside Lightning's loop and compared with
`model(**batch)` under `torch.no_grad()` of the model as loaded, on the same batch and in turns, so that a busy machine
slows both. The model is the embedded default; token ids are random.

    python benchmarks/distillation.py --attn hedgehog --threads 2
"""

import argparse
import functools
import logging
import statistics
import time
import warnings
from typing import Any

import lightning as L
import torch
import transformers
from rich.console import Console
from rich.table import Table
from torch import Tensor, nn
from torch.utils.data import DataLoader

from mimicry.attention import AttentionDims
from mimicry.attention.shipped import load_variant, shipped_variants
from mimicry.conversion import canonicalise, convert
from mimicry.conversion.checkpoint import Checkpoint
from mimicry.training.distillation import DistillationModule
from mimicry.training.optimization import warmup_schedule

TOKENS = (16, 32, 64, 128)
# Shortest text of a padded batch, as a share of the longest: on average 20 % of its tokens are padding.
SHORTEST = 0.6


class Stopwatch(L.Callback):
    """Times each training step, and after it a forward pass of `model` on the same batch."""

    def __init__(self, model: nn.Module) -> None:
        self.model = model
        self.steps_s: list[float] = []
        self.forwards_s: list[float] = []

    def on_train_batch_start(self, *_: Any) -> None:
        self.started = time.perf_counter()

    def on_train_batch_end(
        self, trainer: L.Trainer, module: L.LightningModule, outputs: Any, batch: dict[str, Tensor], index: int
    ) -> None:
        stepped = time.perf_counter()
        with torch.no_grad():
            self.model(**batch)
        self.steps_s.append(stepped - self.started)
        self.forwards_s.append(time.perf_counter() - stepped)


def random_batch(rows: int, tokens: int, vocabulary: int, padded: bool) -> dict[str, Tensor]:
    """Token ids and their mask; at least one row has the full length."""
    lengths = torch.linspace(SHORTEST if padded else 1.0, 1.0, rows).mul(tokens).round()
    mask = (torch.arange(tokens) < lengths[:, None]).long()
    return {"input_ids": torch.randint(1, vocabulary, (rows, tokens)) * mask, "attention_mask": mask}


def measure(model: nn.Module, attn: str, batch: dict[str, Tensor], repetitions: int) -> tuple[float, float]:
    """Median seconds of a forward pass and of a distillation step; the first two of each are not counted."""
    teacher = canonicalise(model)
    optimizer = functools.partial(torch.optim.AdamW, weight_decay=0.0, fused=True)
    module = DistillationModule(teacher, convert(teacher, attn), optimizer, warmup_schedule, learning_rate=1e-2)
    stopwatch = Stopwatch(model)
    trainer = L.Trainer(
        accelerator="cpu",
        max_epochs=1,
        callbacks=stopwatch,
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
    )
    trainer.fit(module, DataLoader([batch] * (repetitions + 2), batch_size=None))
    return statistics.median(stopwatch.forwards_s[2:]), statistics.median(stopwatch.steps_s[2:])


def main() -> None:
    parser = argparse.ArgumentParser(description="Cost of a distillation step, in forward passes of the same model.")
    parser.add_argument("--attn", default="hedgehog", choices=shipped_variants(), help="attention variant to train")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads(), help="CPU threads of torch")
    parser.add_argument("--rows", type=int, default=32, help="texts per batch")
    parser.add_argument("--repetitions", type=int, default=15, help="timed steps per line; medians are shown")
    options = parser.parse_args()
    if not any(True for _ in load_variant(options.attn)(dims=AttentionDims(1, 2, causal=False)).parameters()):
        parser.error(f"argument --attn: must have a feature map that trains, got {options.attn}")
    torch.set_num_threads(options.threads)
    torch.manual_seed(0)
    logging.getLogger("lightning.pytorch").setLevel(logging.ERROR)
    warnings.filterwarnings("ignore", module="lightning.*")
    transformers.utils.logging.set_verbosity_error()
    transformers.utils.logging.disable_progress_bar()
    model, _ = Checkpoint("asset:minilm").load(num_labels=2)
    model.eval()

    columns = ("rows x tokens", "padding", "forward (ms)", "distillation step (ms)", "ratio")
    table = Table(*columns, title=f"{options.attn}, {options.threads} threads, {model.config._attn_implementation}")
    for tokens in TOKENS:
        for padded in (False, True):
            batch = random_batch(options.rows, tokens, model.config.vocab_size, padded)
            forward_s, step_s = measure(model, options.attn, batch, options.repetitions)
            padding = f"{1 - batch['attention_mask'].float().mean().item():.0%}"
            times = (f"{1000 * forward_s:.1f}", f"{1000 * step_s:.1f}", f"{step_s / forward_s:.2f}")
            table.add_row(f"{options.rows} x {tokens}", padding, *times)
    Console().print(table)


if __name__ == "__main__":
    main()
