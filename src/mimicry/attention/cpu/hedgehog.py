"""Hedgehog attention over whole sequences on a CPU, forward and backward, by the kernels in C.

Of about the speed of large matrix products, because features and states stay in a core's caches: a thread takes one
head of one example after the other, chunk by chunk.
"""

import ctypes
import functools
from typing import Any

import torch
from torch import Tensor

from mimicry.attention.cpu.arguments import address, can_run, numbers, projections, rows
from mimicry.attention.cpu.compiled import library
from mimicry.attention.features import PLAIN_RANGE
from mimicry.attention.inputs import Maps, Tokens
from mimicry.shapes import Keys, KeyState, KVState, Outputs, Queries, RowScores, Values

Strides = ctypes.c_ssize_t * 3
POINTER, SIZE, NUMBER = ctypes.c_void_p, ctypes.c_int, ctypes.c_float
MAPS = ("query_weight", "query_bias", "key_weight", "key_bias")
SIZES = ("batch", "heads", "queries", "keys", "width", "value_width", "features", "shared", "threads")
NUMBERS = ("scale", "eps", "limit")


class OutOfRangeError(ArithmeticError):
    """Some |W x + b| is too large for plain exponentials, or not a number; what was written is of no use."""


class _Problem(ctypes.Structure):
    """`Problem` of maps.h."""

    _fields_ = (
        *((name, POINTER) for name in ("q", "k", "v")),
        *((f"{name}_strides", Strides) for name in ("q", "k", "v")),
        *((name, POINTER) for name in (*MAPS, "mask")),
        *((name, SIZE) for name in SIZES),
        *((name, NUMBER) for name in NUMBERS),
    )


class _Gradients(ctypes.Structure):
    """`Gradients` of backward.c."""

    _fields_ = (
        ("grad", POINTER),
        ("strides", Strides),
        *((name, POINTER) for name in ("y", "inverse", "q", "k", "v", *MAPS)),
    )


class Kernels:
    """One layer's maps and one batch of tokens, as the kernels take them; the tensors live as long as this does."""

    def __init__(self, maps: Maps, tokens: Tokens) -> None:
        found = library()
        assert found is not None
        of_query, of_key = projections(maps)
        q, k, v, key_mask = tokens
        self.library = found
        self.q, self.k, self.v = (rows(x) for x in (q, k, v))
        # Kept, because the kernels know their addresses only.
        self.maps = [tensor for part in (of_query, of_key) for tensor in numbers(part)]
        self.mask = None if key_mask is None else key_mask.contiguous()
        (batch, heads, queries, width), (_, _, keys, value_width) = q.shape, v.shape
        self.features, self.width = of_query.num_features, width
        sizes = (batch, heads, queries, keys, width, value_width, self.features, of_query.weight.shape[0] == 1)
        self.problem = _Problem(
            *(x.data_ptr() for x in (self.q, self.k, self.v)),
            *(Strides(*x.stride()[:3]) for x in (self.q, self.k, self.v)),
            *(address(weight) for weight in self.maps),
            address(self.mask),
            *sizes,
            min(torch.get_num_threads(), batch * heads),
            *(of_query.input_scale, maps.eps, PLAIN_RANGE),
        )

    def empty_state(self) -> tuple[KVState, KeyState]:
        """Sums over no key."""
        batch, heads, _, value_width = self.v.shape
        kv = self.v.new_zeros(batch, heads, 2 * self.features, value_width)
        return kv, kv.new_zeros(kv.shape[:3])

    def sum_keys(self) -> tuple[KVState, KeyState]:
        """Sums of phi(k) v^T and of phi(k) over all visible keys.

        Raises:
            OutOfRangeError: where plain exponentials do not serve.
        """
        state = self.empty_state()
        self._run("hedgehog_sum_keys", *state)
        return state

    def read(self, kv: KVState, sums: KeyState) -> tuple[Outputs, RowScores]:
        """Bidirectional outputs and 1 / normaliser of all queries.

        Raises:
            OutOfRangeError: where plain exponentials do not serve.
        """
        results = self._outputs()
        self._run("hedgehog_read", kv, sums, *results)
        return results

    def causal(self, kv: KVState, sums: KeyState) -> tuple[Outputs, RowScores]:
        """The same causally; the sums are over the tokens before the first, and get these tokens added.

        Raises:
            OutOfRangeError: where plain exponentials do not serve; the sums are lost.
        """
        results = self._outputs()
        self._run("hedgehog_causal", kv, sums, *results)
        return results

    def backward(
        self, state: tuple[KVState, KeyState] | None, out: Outputs, inverse: RowScores, grad: Outputs
    ) -> tuple[Queries, Keys, Values, list[dict[str, Tensor]]]:
        """Gradients of q, k and v, and of the parameters of the maps of queries and of keys.

        Args:
            state: sums over all keys if attention is bidirectional, None if it is causal.
            out: the outputs, as they were returned.
            inverse: likewise.
            grad: of the outputs.
        """
        of_q, of_k, of_v = (torch.empty(x.shape, dtype=x.dtype) for x in (self.q, self.k, self.v))
        # For each example on its own: heads of several are worked on at once.
        shape = (*self.q.shape[:2], self.features, self.width)
        of_queries, of_keys = ((self.q.new_zeros(shape), self.q.new_zeros(shape[:3])) for _ in range(2))
        grad = rows(grad)
        results = (out, inverse, of_q, of_k, of_v, *of_queries, *of_keys)
        gradients = _Gradients(grad.data_ptr(), Strides(*grad.stride()[:3]), *(x.data_ptr() for x in results))
        if state is None:
            self._run("hedgehog_causal_queries_backward", ctypes.byref(gradients))
            self._run("hedgehog_causal_keys_backward", ctypes.byref(gradients))
        else:
            of_state = self.empty_state()
            self._run("hedgehog_read_backward", ctypes.byref(gradients), *state, *of_state)
            self._run("hedgehog_sum_keys_backward", ctypes.byref(gradients), *of_state)
        return of_q, of_k, of_v, [self._of_parameters(*found) for found in (of_queries, of_keys)]

    def _of_parameters(self, weight: Tensor, bias: Tensor) -> dict[str, Tensor]:
        """By name, summed over examples, and over heads where these share a map."""
        heads = 1 if self.problem.shared else weight.shape[1]
        found = {"projection.weight": weight.sum(dim=0).sum_to_size(heads, self.features, self.width)}
        if self.problem.query_bias is not None:
            found["projection.bias"] = bias.sum(dim=0)[:, None].sum_to_size(heads, 1, self.features)
        return found

    def _outputs(self) -> tuple[Outputs, RowScores]:
        of_rows = self.q.shape[:3]
        return self.v.new_empty(*of_rows, self.v.shape[3]), self.q.new_empty(of_rows)

    def _run(self, name: str, *others: Any) -> None:
        addresses = [POINTER(x.data_ptr()) if isinstance(x, Tensor) else x for x in others]
        function = getattr(self.library, name)
        # Gradients are of outputs that were in range.
        function.restype = None if name.endswith("backward") else SIZE
        if function(ctypes.byref(self.problem), *addresses):
            raise OutOfRangeError


def serves(maps: Maps, tokens: Tokens) -> bool:
    """Whether the kernels can run these: tokens there are, and widths of whole vectors."""
    q, _, v, _ = tokens
    if not can_run(maps, q) or q.numel() == 0 or v.numel() == 0:
        return False
    features = projections(maps)[0].num_features
    return not any(size % _columns() for size in (q.shape[3], v.shape[3], features))


@functools.cache
def _columns() -> int:
    """What widths must be multiples of on this machine."""
    found = library()
    assert found is not None
    columns: int = found.hedgehog_columns()
    return columns
