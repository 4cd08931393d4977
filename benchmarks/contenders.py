"""What the attention benchmark runs: one step of one contender in one mode, from q, k and v to outputs or gradients."""

import importlib.util
from collections.abc import Callable
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from mimicry.attention import AttentionDims, LinearAttention, SoftmaxAttention
from mimicry.attention.shipped import load_variant
from mimicry.objectives import soft_cross_entropy, streamed_soft_cross_entropy

MODES = ("forward", "train", "decode", "distillation")
# Contenders that are not ours; they take part where they are installed and have the mode.
PEERS = {"performer-pytorch": "performer_pytorch", "fla": "fla"}
BASELINES = {"distillation": "stored"}
# The two forms of the distillation loss.
LOSSES = ("stored", "streamed")

Step = Callable[[], None]


@dataclass(frozen=True)
class Cell:
    """One cell of the benchmark.

    Args:
        mode: forward; train (forward + backward); decode (one token after `tokens`); distillation (loss + backward).
        causal: direction; decoding is always causal.
        tokens: sequence length.
        batch: sequences.
        heads: heads per sequence.
        width: head dim.
        dtype: of q, k and v.
        device: torch device.
        threads: CPU threads.
    """

    mode: str
    causal: bool
    tokens: int
    batch: int
    heads: int
    width: int
    dtype: torch.dtype
    device: str
    threads: int

    @property
    def baseline(self) -> str:
        """What the others are compared with."""
        return BASELINES.get(self.mode, "sdpa")


def installed(contender: str) -> bool:
    """Whether this contender can run here at all."""
    return contender not in PEERS or importlib.util.find_spec(PEERS[contender]) is not None


def step_of(contender: str, cell: Cell) -> Step | None:
    """One step, ready to run; None where the contender has no such mode."""
    torch.set_num_threads(cell.threads)
    torch.manual_seed(0)
    if cell.mode == "distillation":
        return _distillation(contender, cell)
    if contender in LOSSES:
        return None
    if cell.mode == "decode":
        return _decode(contender, cell)
    attend, parameters = _attention(contender, cell)
    if attend is None:
        return None
    q, k, v = _states(cell)
    if cell.mode == "forward":
        return _without_gradients(lambda: attend(q, k, v))
    leaves = [x.requires_grad_() for x in (q, k, v)]
    direction = torch.randn_like(v)

    def train() -> None:
        torch.autograd.grad(attend(*leaves), [*leaves, *parameters], direction)

    return train


def flops(contender: str, cell: Cell) -> float | None:
    """Floating-point operations of a step's matrix products, causal ones in chunks of 64 tokens; None for peers."""
    rows = cell.batch * cell.heads * cell.tokens
    if cell.mode not in ("forward", "train"):
        return None
    if contender == "sdpa":
        pairs = cell.tokens * (0.5 if cell.causal else 1.0)
        # The backward pass forms the scores again and has four products of that size besides.
        return rows * pairs * cell.width * 4 * (1 if cell.mode == "forward" else 3.5)
    if contender in PEERS:
        return None
    layer = load_variant(contender)(dims=AttentionDims(cell.heads, cell.width, cell.causal))
    if not isinstance(layer, LinearAttention):
        return None
    f, d = layer.query_map.feature_dim, cell.width
    learnt = sum(p.numel() for p in layer.query_map.parameters() if p.ndim == 3) / cell.heads
    inside = 64 * (f + d) if cell.causal else 0
    forward = 2 * (2 * f * d + 2 * learnt + inside)
    backward = 2 * (6 * f * d + 6 * learnt + (3 * 64 * f + 2 * 64 * d if cell.causal else 0)) - 2 * (
        0 if cell.causal else 2 * f * d
    )
    return rows * (forward + (0 if cell.mode == "forward" else backward))


def _attention(contender: str, cell: Cell) -> tuple[Callable[[Tensor, Tensor, Tensor], Tensor] | None, list[Tensor]]:
    if contender == "sdpa":
        return lambda q, k, v: F.scaled_dot_product_attention(q, k, v, is_causal=cell.causal), []
    if contender == "performer-pytorch":
        from performer_pytorch import FastAttention

        return FastAttention(dim_heads=cell.width, causal=cell.causal).to(cell.device, cell.dtype), []
    layer = _layer("hedgehog" if contender == "fla" else contender, cell)
    if contender == "fla":
        if not cell.causal or cell.device == "cpu":
            return None, []
        return _fla(layer), list(layer.parameters())
    return layer, list(layer.parameters())


def _fla(layer: LinearAttention) -> Callable[[Tensor, Tensor, Tensor], Tensor]:
    from fla.ops.linear_attn import chunk_linear_attn

    def attend(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        phi_q, phi_k = (x.transpose(1, 2).to(v.dtype) for x in (layer.query_map(q), layer.key_map(k)))
        return chunk_linear_attn(phi_q, phi_k, v.transpose(1, 2), scale=1.0, normalize=True)[0].transpose(1, 2)

    return attend


def _layer(variant: str, cell: Cell) -> LinearAttention:
    layer = load_variant(variant)(dims=AttentionDims(cell.heads, cell.width, cell.causal or cell.mode == "decode"))
    with torch.no_grad():
        for parameter in layer.parameters():
            # Maps as after some training: an identity would flatter nothing, but a zero bias might.
            parameter.add_(0.02 * torch.randn_like(parameter))
    return layer.to(cell.device)


def _decode(contender: str, cell: Cell) -> Step | None:
    q, k, v = _states(cell)
    new = [x[:, :, -1:] for x in (q, k, v)]
    if contender == "sdpa":
        last = cell.tokens - 1

        def attend() -> None:
            k[:, :, last:], v[:, :, last:] = new[1], new[2]
            F.scaled_dot_product_attention(new[0], k, v)

        return _without_gradients(attend)
    if contender in PEERS:
        return None
    layer = _layer(contender, cell)
    if not isinstance(layer, LinearAttention):
        return None
    _, state = layer.resume(q, k, v)

    def step() -> None:
        # The cache of keys and values is written in place, too.
        layer.resume(*new, state, overwrite=True)

    return step


def _distillation(contender: str, cell: Cell) -> Step | None:
    if contender not in LOSSES:
        return None
    q, k, _ = _states(cell)
    phi_q, phi_k = (torch.rand(*q.shape[:3], 2 * cell.width, device=cell.device).requires_grad_() for _ in range(2))
    teacher = SoftmaxAttention(AttentionDims(cell.heads, cell.width, cell.causal))

    def stored() -> None:
        scores = torch.einsum("bhnf,bhmf->bhnm", phi_q, phi_k)
        scores = scores.tril() if cell.causal else scores
        loss = soft_cross_entropy(teacher.weights(q, k), scores / scores.sum(dim=-1, keepdim=True))
        torch.autograd.grad(loss, (phi_q, phi_k))

    def streamed() -> None:
        torch.autograd.grad(streamed_soft_cross_entropy(q, k, phi_q, phi_k, cell.causal)[0], (phi_q, phi_k))

    return stored if contender == "stored" else streamed


def _states(cell: Cell) -> tuple[Tensor, Tensor, Tensor]:
    shape = (cell.batch, cell.heads, cell.tokens, cell.width)
    q, k, v = (torch.randn(shape, device=cell.device).to(cell.dtype) for _ in range(3))
    return q, k, v


def _without_gradients(step: Callable[[], object]) -> Step:
    def run() -> None:
        with torch.no_grad():
            step()

    return run
