"""What one more token costs after a long text: converted models and the host's own softmax, side by side.

A random model in the shape of Llama reads `tokens` random tokens in pieces, then goes on token by token. All contenders
of a length take turns; medians count. Cache bytes are those of the tensors that the cache holds on to.

    python benchmarks/generation.py --tokens 1024 4096 16384 32768 --save results/generation_speed
"""

import argparse
import statistics
import time
from dataclasses import dataclass
from pathlib import Path

import torch
from measuring import write_csv
from rich.console import Console
from rich.progress import track
from rich.table import Table
from transformers import Cache, DynamicCache, LlamaConfig, LlamaForCausalLM, PreTrainedModel

from mimicry import convert
from mimicry.attention.shipped import shipped_variants
from mimicry.conversion.cache import RecurrentLayer

VOCABULARY = 1024
# The host's own attention over a cache of all keys and values.
HOST = "softmax (host)"


@dataclass(frozen=True)
class Measured:
    """One line of the result."""

    contender: str
    tokens: int
    prompt_tokens_per_s: float
    new_tokens_per_s: float
    cache_bytes: int


def host_model(options: argparse.Namespace) -> PreTrainedModel:
    """A random model that can stand at every position asked for."""
    config = LlamaConfig(
        vocab_size=VOCABULARY,
        hidden_size=options.heads * options.width,
        intermediate_size=4 * options.heads * options.width,
        num_hidden_layers=options.layers,
        num_attention_heads=options.heads,
        num_key_value_heads=options.kv_heads,
        max_position_embeddings=max(options.tokens) + options.rounds * options.new,
    )
    torch.manual_seed(0)
    return LlamaForCausalLM(config).eval()


def read(model: PreTrainedModel, tokens: int, options: argparse.Namespace) -> tuple[Cache, float]:
    """A cache that has seen so many random tokens, and the seconds that took."""
    cache, ids = DynamicCache(config=model.config), torch.randint(VOCABULARY, (options.batch, tokens))
    started = time.perf_counter()
    for piece in ids.split(options.chunk, dim=1):
        model(piece, past_key_values=cache, logits_to_keep=1)
    return cache, time.perf_counter() - started


def go_on(model: PreTrainedModel, cache: Cache, options: argparse.Namespace) -> float:
    """Seconds per new token."""
    token = torch.randint(VOCABULARY, (options.batch, 1))
    started = time.perf_counter()
    for _ in range(options.new):
        token = model(token, past_key_values=cache).logits[:, -1:].argmax(dim=-1)
    return (time.perf_counter() - started) / options.new


def cache_bytes(cache: Cache) -> int:
    """Memory of all states, keys and values."""
    return sum(
        layer.nbytes if isinstance(layer, RecurrentLayer) else layer.keys.nbytes + layer.values.nbytes
        for layer in cache.layers
    )


@torch.inference_mode()
def measure(models: dict[str, PreTrainedModel], tokens: int, options: argparse.Namespace) -> list[Measured]:
    """All contenders after one length of text."""
    caches, reading_s = {}, {}
    for name, model in models.items():
        caches[name], reading_s[name] = read(model, tokens, options)
    held = {name: cache_bytes(cache) for name, cache in caches.items()}
    going_s: dict[str, list[float]] = {name: [] for name in models}
    # The first round is not counted.
    for _ in range(options.rounds):
        for name, model in models.items():
            going_s[name].append(go_on(model, caches[name], options))
    return [
        Measured(
            name,
            tokens,
            options.batch * tokens / reading_s[name],
            options.batch / statistics.median(going_s[name][1:]),
            held[name],
        )
        for name in models
    ]


def table(lines: list[Measured], title: str) -> Table:
    result = Table("tokens before", "contender", "prompt (tokens/s)", "new (tokens/s)", "cache (MB)", title=title)
    for line in lines:
        speeds = (f"{line.prompt_tokens_per_s:,.0f}", f"{line.new_tokens_per_s:,.1f}")
        result.add_row(f"{line.tokens:,}", line.contender, *speeds, f"{line.cache_bytes / 1e6:,.2f}")
    return result


def main() -> None:
    parser = argparse.ArgumentParser(description="Speed and memory of generation after texts of growing length.")
    ours = ["hedgehog", "window_hedgehog"]
    parser.add_argument("--variants", nargs="+", default=ours, choices=shipped_variants(), help="converted contenders")
    parser.add_argument("--tokens", type=int, nargs="+", default=[1024, 4096, 16384, 32768], help="lengths of text")
    parser.add_argument("--new", type=int, default=32, help="tokens generated per round")
    parser.add_argument("--rounds", type=int, default=5, help="rounds, >= 2; the first is not counted")
    parser.add_argument("--chunk", type=int, default=1024, help="tokens of the text read at a time")
    parser.add_argument("--batch", type=int, default=1, help="texts")
    parser.add_argument("--layers", type=int, default=4, help="layers")
    parser.add_argument("--heads", type=int, default=8, help="query heads")
    parser.add_argument("--kv-heads", type=int, default=2, help="heads of keys and values")
    parser.add_argument("--width", type=int, default=64, help="head dim")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads(), help="CPU threads of torch")
    parser.add_argument("--save", type=Path, help="folder for table.csv")
    options = parser.parse_args()
    if options.rounds < 2:
        parser.error(f"argument --rounds: must be >= 2, got {options.rounds}")
    torch.set_num_threads(options.threads)
    host = host_model(options)
    models = {HOST: host} | {name: convert(host, name).eval() for name in options.variants}
    lines = [line for tokens in track(options.tokens, "measuring") for line in measure(models, tokens, options)]
    shape = f"{options.layers} layers, {options.heads} heads over {options.kv_heads} x {options.width}"
    Console(width=130).print(table(lines, f"Generation, {shape}, batch {options.batch}, {options.threads} threads"))
    if options.save:
        options.save.mkdir(parents=True, exist_ok=True)
        write_csv(lines, options.save / "table.csv")


if __name__ == "__main__":
    main()
