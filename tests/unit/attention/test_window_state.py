"""The state of windowed attention: the window and the sinks as they are, sums over the rest."""

from functools import partial

import pytest
import torch
from torch import Tensor

from mimicry.attention import AttentionDims, SlidingWindowAttention, WindowLinearAttention
from mimicry.attention.feature_maps.hedgehog import HedgehogFeatureMap
from mimicry.attention.window_state import WindowState

HEADS, WIDTH, TOKENS = 2, 8, 200
DIMS = AttentionDims(HEADS, WIDTH, causal=True)
HYBRID = partial(WindowLinearAttention, feature_map=HedgehogFeatureMap)
LAYERS = {"sliding": SlidingWindowAttention, "hybrid": HYBRID}
PIECES = [[1] * 20 + [180], [63, 1, 64, 65, 7], [200], [0, 70, 0, 130]]

Windowed = SlidingWindowAttention | WindowLinearAttention

every_layer = pytest.mark.parametrize("name", LAYERS)


def layer(name: str, window: int = 16, num_sinks: int = 1) -> Windowed:
    attn = LAYERS[name](DIMS, window=window, num_sinks=num_sinks).double().eval()
    with torch.no_grad():
        for parameter in attn.parameters():
            parameter.add_(0.2 * torch.randn_like(parameter))
    return attn


def states() -> tuple[Tensor, Tensor, Tensor]:
    q, k, v = torch.randn(3, 3, HEADS, TOKENS, WIDTH, dtype=torch.float64)
    return q, k, v


def padding() -> Tensor:
    """Holes everywhere, and in the first row nothing for the first 70 tokens."""
    mask = torch.rand(3, TOKENS) > 0.3
    mask[0, :70] = False
    return mask


def in_pieces(
    attn: Windowed, pieces: list[int], inputs: tuple[Tensor, Tensor, Tensor], mask: Tensor | None = None
) -> tuple[Tensor, WindowState]:
    outputs, state, first = [], None, 0
    for length in pieces:
        at = slice(first, first + length)
        out, state = attn.resume(*(x[:, :, at] for x in inputs), state, None if mask is None else mask[:, at])
        outputs.append(out)
        first += length
    assert state is not None
    return torch.cat(outputs, dim=2), state


@every_layer
@pytest.mark.parametrize("num_sinks", [0, 1, 4])
@pytest.mark.parametrize("window", [1, 3, 16, 500])
def test_any_pieces_give_the_outputs_of_one_pass(name: str, window: int, num_sinks: int) -> None:
    attn, inputs = layer(name, window, num_sinks), states()
    for mask in (None, padding()):
        expected = attn.weights(*inputs[:2], mask) @ inputs[2]
        for pieces in PIECES:
            outputs, state = in_pieces(attn, pieces, inputs, mask)
            torch.testing.assert_close(outputs, expected, rtol=0, atol=1e-10)
            assert (state.tokens, state.k.shape[2]) == (TOKENS, min(TOKENS, window))


@every_layer
def test_token_by_token_is_one_pass_too(name: str) -> None:
    attn, inputs, mask = layer(name), states(), padding()
    outputs, _ = in_pieces(attn, [1] * TOKENS, inputs, mask)
    torch.testing.assert_close(outputs, attn.weights(*inputs[:2], mask) @ inputs[2], rtol=0, atol=1e-10)


@every_layer
def test_keys_that_grow_along_the_sequence_stay_exact(name: str) -> None:
    attn, (q, k, v) = layer(name), states()
    k = k * torch.linspace(0.1, 100, TOKENS)[:, None]
    outputs, _ = in_pieces(attn, PIECES[1], (q, k, v))
    torch.testing.assert_close(outputs, attn.weights(q, k) @ v, rtol=0, atol=1e-9)


@every_layer
@pytest.mark.parametrize("prompt", [1, 10, 150])
def test_a_prompt_can_be_absorbed_without_its_outputs(name: str, prompt: int) -> None:
    attn, (q, k, v), mask = layer(name), states(), padding()
    state = attn.absorb(k[:, :, :prompt], v[:, :, :prompt], mask[:, :prompt])
    out, _ = attn.resume(*(x[:, :, prompt:] for x in (q, k, v)), state, mask[:, prompt:])
    torch.testing.assert_close(out, (attn.weights(q, k, mask) @ v)[:, :, prompt:], rtol=0, atol=1e-10)


@pytest.mark.parametrize("part", ["linear", "window"])
def test_a_part_can_be_left_out_while_resuming_too(part: str) -> None:
    attn, inputs = layer("hybrid"), states()
    attn.ablate = part
    outputs, _ = in_pieces(attn, PIECES[1], inputs)
    torch.testing.assert_close(outputs, attn.weights(*inputs[:2]) @ inputs[2], rtol=0, atol=1e-10)


@every_layer
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32], ids=str)
def test_the_state_stays_as_large_as_a_full_window_makes_it(name: str, dtype: torch.dtype) -> None:
    attn, inputs = layer(name).float(), [x.to(dtype) for x in states()]
    state = attn.absorb(*(x[:, :, :16] for x in inputs[1:]))
    full = state.nbytes
    for token in range(16, 60):
        out, state = attn.resume(*(x[:, :, token : token + 1] for x in inputs), state)
        assert out.dtype == dtype
    assert state.nbytes == full
    # Views would hold on to what they are views of.
    assert state.k.untyped_storage().nbytes() == state.k.nbytes
    assert state.beyond is None or state.beyond.kv.dtype == torch.float32


@every_layer
def test_rows_can_be_reordered_for_beam_search(name: str) -> None:
    attn, inputs, mask = layer(name), states(), padding()
    rows = torch.tensor([2, 0, 0])
    state = attn.absorb(*(x[:, :, :150] for x in inputs[1:]), mask[:, :150])
    chosen = [x.index_select(0, rows) for x in inputs]
    out, _ = attn.resume(*(x[:, :, 150:] for x in chosen), state.reorder(rows), mask[rows][:, 150:])
    expected = (attn.weights(*chosen[:2], mask[rows]) @ chosen[2])[:, :, 150:]
    torch.testing.assert_close(out, expected, rtol=0, atol=1e-10)
    assert (state.batch_size, state.reorder(rows[:1]).batch_size) == (3, 1)


@every_layer
def test_an_old_state_is_still_good_and_no_gradient_is_recorded(name: str) -> None:
    attn, inputs = layer(name), states()
    state = attn.absorb(*(x[:, :, :150] for x in inputs[1:]))
    rest = [x[:, :, 150:].requires_grad_() for x in inputs]
    first, _ = attn.resume(*rest, state)
    again, _ = attn.resume(*rest, state)
    assert torch.equal(first, again)
    assert not first.requires_grad


@every_layer
def test_what_cannot_be_resumed_is_refused(name: str) -> None:
    attn, (q, k, v) = layer(name), states()
    with pytest.raises(ValueError, match=r"q must have as many tokens as k \(200\) to resume, got 3"):
        attn.resume(q[:, :, :3], k, v)
    state = attn.absorb(k, v)
    with pytest.raises(ValueError, match=r"state.k must be \(3, 2, 5, 8\) for this layer and batch, got"):
        layer(name, window=5).resume(q, k, v, state)
    with pytest.raises(ValueError, match=r"state.sinks.k must be \(3, 2, 2, 8\)"):
        layer(name, num_sinks=2).resume(q, k, v, state)
    with pytest.raises(ValueError, match=r"state.k must be \(1, 2, 16, 8\)"):
        attn.resume(q[:1], k[:1], v[:1], state)
    with pytest.raises(ValueError, match=r"state.beyond.kv must be"):
        layer("hybrid" if name == "sliding" else "sliding").resume(q, k, v, state)
    both_ways = LAYERS[name](AttentionDims(HEADS, WIDTH, causal=False)).double()
    for call in (lambda: both_ways.resume(q, k, v), lambda: both_ways.absorb(k, v)):
        with pytest.raises(ValueError, match="a state needs dims"):
            call()
