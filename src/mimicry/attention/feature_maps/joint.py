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
    versions: tuple[int, ...]
    matrix: Tensor
    bias: Tensor | None

    def serves(self, sources: tuple[Tensor, ...], dtype: torch.dtype) -> bool:
        """Whether these are the parameters as they were then, for tokens of this dtype."""
        return (
            self.matrix.dtype == dtype
            and self.versions == tuple(source._version for source in sources)
            and all(mine.data_ptr() == now.data_ptr() for mine, now in zip(self.sources, sources, strict=True))
        )


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
    x = torch.cat([q.squeeze(2).transpose(0, 1), k.squeeze(2).transpose(0, 1)])
    u = torch.bmm(x, joined.matrix) if joined.bias is None else torch.baddbmm(joined.bias, x, joined.matrix)
    return u.view(2, q.shape[1], q.shape[0], 1, u.shape[2]).transpose(1, 2)


def _join(of_query: HeadProjection, of_key: HeadProjection, x: HeadStates) -> _Joined:
    """What was joined for an earlier token if it still holds, else made anew."""
    pairs = [(of_query.weight, of_key.weight), (of_query.bias, of_key.bias)]
    sources = tuple(source for pair in pairs for source in pair if source is not None)
    # Tensors of inference mode do not count their changes.
    traceable = not any(source.is_inference() for source in sources)
    known = _joined.get(of_query)
    if traceable and known is not None and known.serves(sources, x.dtype):
        return known
    matrix = torch.cat([part.matrix(x) for part in (of_query, of_key)]).mT.contiguous()
    bias = None
    if of_query.bias is not None and of_key.bias is not None:
        bias = torch.cat([part.to(x.dtype).expand(x.shape[1], -1, -1) for part in (of_query.bias, of_key.bias)])
    detached = tuple(source.detach() for source in sources)
    joined = _Joined(detached, tuple(source._version for source in sources) if traceable else (), matrix, bias)
    if traceable:
        _joined[of_query] = joined
    return joined
