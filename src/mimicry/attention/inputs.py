"""What every form of linear attention takes: the maps of a layer, and the tokens it attends over."""

from typing import NamedTuple

from mimicry.attention.feature_maps.base import FeatureMap
from mimicry.shapes import KeyMask, Keys, Queries, Values


class Maps(NamedTuple):
    """How a layer turns queries and keys into weights.

    Args:
        query: the feature map of the queries.
        key: that of the keys; the same one if maps are tied.
        eps: floor of the normaliser, > 0.
    """

    query: FeatureMap
    key: FeatureMap
    eps: float


class Tokens(NamedTuple):
    """Queries, and the keys and values that they read; all in one dtype, of one batch and as many heads."""

    q: Queries
    k: Keys
    v: Values
    key_mask: KeyMask | None = None

    def rows(self, batch: slice) -> "Tokens":
        """Some examples of the batch."""
        return Tokens(self.q[batch], self.k[batch], self.v[batch], self._masked(batch))

    def part(self, at: slice) -> "Tokens":
        """Some tokens of every example, where there are as many queries as keys."""
        return Tokens(self.q[:, :, at], self.k[:, :, at], self.v[:, :, at], self._masked((slice(None), at)))

    def _masked(self, at: slice | tuple[slice, slice]) -> KeyMask | None:
        return None if self.key_mask is None else self.key_mask[at]
