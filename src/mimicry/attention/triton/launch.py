"""From tensors to kernel launches: grids, states, and sums over what programs computed apart."""

import torch
from torch import Tensor

from mimicry.attention.triton import backward, forward, key_gradients, query_gradients
from mimicry.attention.triton.problem import Problem
from mimicry.attention.triton.tiles import Tiles

SCAN_BLOCK = 256


def device_of(x: Tensor) -> torch.cuda.device:
    """Triton launches on the current GPU: makes that the tensor's, if it is on one."""
    return torch.cuda.device(x.device if x.is_cuda else -1)


def key_states(problem: Problem) -> Tensor:
    """Sums of phi(k) v^T and phi(k) per segment, (heads, segments, state)."""
    k, v = problem.k, problem.v
    states = _new_states(problem, k.shape[2])
    forward.key_states[_grid(problem, problem.plan.forward, k.shape[2])](
        k, _strides(k), v, _strides(v), problem.key_weight, problem.key_bias, problem.key_shift, problem.key_mask,
        states, k.shape[2], problem.segment, **problem.options(problem.plan.forward),
    )  # fmt: skip
    return states


def outputs(problem: Problem) -> tuple[Tensor, Tensor, Tensor | None]:
    """Outputs, normalisers, and the state each segment started from: None where that is nothing."""
    q, k, v = problem.q, problem.k, problem.v
    states = None
    if not problem.causal:
        states = key_states(problem).sum(dim=1, keepdim=True)
    elif problem.segments(q.shape[2]) > 1:
        states = _exclusive_sums(key_states(problem), reverse=False)
    y = torch.empty_like(q) if q.shape == v.shape else q.new_empty(*q.shape[:3], problem.value_dim)
    normalisers = q.new_empty(q.shape[:3], dtype=torch.float32)
    forward.outputs[_grid(problem, problem.plan.forward, q.shape[2])](
        q, _strides(q), k, _strides(k), v, _strides(v), y, _strides(y), normalisers,
        problem.query_weight, problem.query_bias, problem.key_weight, problem.key_bias,
        problem.key_shift, problem.key_mask, states, q.shape[2], k.shape[2], problem.segment, problem.eps,
        CAUSAL=problem.causal, **problem.options(problem.plan.forward),
    )  # fmt: skip
    return y, normalisers, states


def gradients(
    problem: Problem, dy: Tensor, y: Tensor, normalisers: Tensor, states: Tensor | None
) -> tuple[Tensor | None, ...]:
    """Gradients by q, k, v, and by weight and bias of the query map and the key map."""
    q, k, v, tiles = problem.q, problem.k, problem.v, problem.plan.backward
    queries, keys = q.shape[2], k.shape[2]
    products = torch.empty_like(normalisers)
    backward.row_products[(problem.heads, -(-queries // tiles.chunk))](
        dy, _strides(dy), y, _strides(y), normalisers, products, queries, problem.eps,
        HEADS=q.shape[1], VALUE=problem.value_dim, CHUNK=tiles.chunk,
    )  # fmt: skip
    everything = (
        problem.query_weight, problem.query_bias, problem.key_weight, problem.key_bias, problem.key_shift,
        problem.key_mask,
    )  # fmt: skip
    sizes = (queries, keys, problem.segment)

    dq, grid = _shares(problem, q), _grid(problem, tiles, queries)
    query_dw, query_db = _map_shares(problem, grid)
    query_gradients.query_gradients[grid](
        q, _strides(q), k, _strides(k), v, _strides(v), dy, _strides(dy), dq, _share_strides(dq), query_dw, query_db,
        *everything, states, normalisers, products, *sizes, CAUSAL=problem.causal, **problem.options(tiles),
    )  # fmt: skip

    query_states = _query_states(problem, dy, normalisers, products)
    dk, dv, grid = _shares(problem, k), torch.empty_like(v), _grid(problem, tiles, keys)
    key_dw, key_db = _map_shares(problem, grid)
    key_gradients.key_gradients[grid](
        q, _strides(q), k, _strides(k), v, _strides(v), dy, _strides(dy), dk, _share_strides(dk), dv, _strides(dv),
        key_dw, key_db, *everything, query_states, normalisers, products, *sizes,
        CAUSAL=problem.causal, **problem.options(tiles),
    )  # fmt: skip
    return (
        _over_tiles(dq, q),
        _over_tiles(dk, k),
        dv,
        _over_programs(problem, query_dw, problem.query_weight),
        _over_programs(problem, query_db, problem.query_bias),
        _over_programs(problem, key_dw, problem.key_weight),
        _over_programs(problem, key_db, problem.key_bias),
    )


def _query_states(problem: Problem, dy: Tensor, normalisers: Tensor, products: Tensor) -> Tensor | None:
    """Per segment of keys, the state of the queries after it; of all queries when not causal."""
    q, tiles = problem.q, problem.plan.backward
    if problem.causal and problem.segments(q.shape[2]) == 1:
        return None
    states = _new_states(problem, q.shape[2])
    key_gradients.query_states[_grid(problem, tiles, q.shape[2])](
        q, _strides(q), dy, _strides(dy), problem.query_weight, problem.query_bias, problem.key_shift,
        normalisers, products, states, q.shape[2], problem.segment, **problem.options(tiles),
    )  # fmt: skip
    return _exclusive_sums(states, reverse=True) if problem.causal else states.sum(dim=1, keepdim=True)


def _grid(problem: Problem, tiles: Tiles, tokens: int) -> tuple[int, int, int]:
    return problem.heads, problem.segments(tokens), problem.tiles(tiles)


def _strides(x: Tensor) -> tuple[int, ...]:
    return x.stride()[:3]


def _new_states(problem: Problem, tokens: int) -> Tensor:
    shape = problem.heads, problem.segments(tokens), problem.state_size
    return problem.q.new_empty(shape, dtype=torch.float32)


def _exclusive_sums(states: Tensor, reverse: bool) -> Tensor:
    """Each state becomes the sum of those before it, or after it."""
    heads, segments, size = states.shape
    grid = (heads, -(-size // SCAN_BLOCK))
    forward.scan_states[grid](states, segments, SIZE=size, BLOCK=SCAN_BLOCK, REVERSE=reverse)
    return states


def _shares(problem: Problem, x: Tensor) -> Tensor:
    """Room for a gradient that the tiles of the values share in: in full precision where there are several."""
    tiles = problem.tiles(problem.plan.backward)
    return torch.empty_like(x)[None] if tiles == 1 else x.new_empty(tiles, *x.shape, dtype=torch.float32)


def _share_strides(shares: Tensor) -> tuple[int, ...]:
    return *shares.stride()[1:4], shares.stride(0)


def _over_tiles(shares: Tensor, x: Tensor) -> Tensor:
    return shares[0] if shares.shape[0] == 1 else shares.sum(dim=0).to(x.dtype)


def _map_shares(problem: Problem, grid: tuple[int, int, int]) -> tuple[Tensor, Tensor]:
    """Room for every program's share of a map's gradients, (batch, heads, programs, ...)."""
    batch, heads = problem.q.shape[:2]
    features, width = problem.query_weight.shape[1:]
    weight = problem.q.new_empty(batch, heads, grid[1] * grid[2], features, width, dtype=torch.float32)
    return weight, weight.new_empty(weight.shape[:4])


def _over_programs(problem: Problem, shares: Tensor, parameter: Tensor | None) -> Tensor | None:
    """The gradient by a map's weight or bias; a map that all heads share collects theirs."""
    if parameter is None:
        return None
    total = shares.sum(dim=(0, 2))
    return total.sum_to_size(problem.query_weight.shape[0], *total.shape[1:]).to(parameter.dtype).view_as(parameter)
