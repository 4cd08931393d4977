"""The projections of a layer's query map and key map in one product, for the single tokens of decoding.

There a product takes less time than the calls around it, so that one for both maps costs half of one for each.
"""

from dataclasses import dataclass
from weakref import WeakKeyDictionary

import torch
from torch import Tensor

from mimicry.attention.feature_maps.projection import HeadProjection
from mimicry.shapes import HeadStates, TokenFeatures


@dataclass(frozen=True)
class _Joined:
    """Matrices and biases of both, one after the other, and what they were copied from.

    The sources are kept, so that no later parameter can come to lie at their address and pass for them.
    """

    sources: tuple[Tensor, ...]
    stamp: tuple[tuple[int, int], ...]
    matrix: Tensor
    bias: Tensor | None


_joined: WeakKeyDictionary[HeadProjection, _Joined] = WeakKeyDictionary()


def joint_projection(of_query: HeadProjection, of_key: HeadProjection, q: HeadStates, k: HeadStates) -> TokenFeatures:
    """W x + b of one query and one key, no gradients.

    Args:
        of_query: of a layer's query map.
        of_key: of its key map, with the same sizes and options.
        q: a single token in each row.
        k: likewise.
    """
    joined = _join(of_query, of_key, q)
    # Heads in front, the rows of the batch as the rows of each product.
    x = torch.cat([q, k], dim=1).squeeze(2).transpose(0, 1)
    u = torch.bmm(x, joined.matrix) if joined.bias is None else torch.baddbmm(joined.bias, x, joined.matrix)
    return u.view(2, q.shape[1], q.shape[0], 1, u.shape[2]).transpose(1, 2)


def _join(of_query: HeadProjection, of_key: HeadProjection, x: HeadStates) -> _Joined:
    """What was joined for an earlier token if it still holds, else made anew."""
    biases = [] if of_query.bias is None or of_key.bias is None else [of_query.bias, of_key.bias]
    sources = (of_query.weight, of_key.weight, *biases)
    # Tensors of inference mode do not count their changes.
    stamp = () if any(source.is_inference() for source in sources) else _stamp(sources)
    known = _joined.get(of_query)
    if known is not None and stamp and known.stamp == stamp and known.matrix.dtype == x.dtype:
        return known
    matrix = torch.cat([part.matrix(x) for part in (of_query, of_key)]).mT.contiguous()
    bias = torch.cat([part.to(x.dtype).expand(x.shape[1], -1, -1) for part in biases]) if biases else None
    joined = _Joined(tuple(source.detach() for source in sources), stamp, matrix, bias)
    if stamp:
        _joined[of_query] = joined
    return joined


def _stamp(sources: tuple[Tensor, ...]) -> tuple[tuple[int, int], ...]:
    """Changes with every write to the sources, and with every tensor put in their place."""
    return tuple((source._version, source.data_ptr()) for source in sources)
