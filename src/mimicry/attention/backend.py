"""Which form of linear attention runs: the one asked for, or the cheapest for the sizes. Choices are logged."""

import logging
from typing import Literal, get_args

from mimicry.attention.feature_maps.base import FeatureMap, KernelFeatureMap
from mimicry.shapes import Keys, Queries

logger = logging.getLogger(__name__)

Backend = Literal["auto", "reference", "chunked"]
Form = Literal["reference", "chunked"]

_announced: set[tuple[object, ...]] = set()


def check_backend(backend: str) -> None:
    """Raises ValueError unless there is such a backend and it can run here."""
    if backend not in get_args(Backend):
        raise ValueError(f"backend must be one of {', '.join(get_args(Backend))}, got {backend!r}")


def choose(backend: Backend, feature_map: FeatureMap, q: Queries, k: Keys, causal: bool) -> Form:
    """The form to run for these queries and keys."""
    if backend != "auto":
        return backend
    form: Form = "reference" if pairs_are_cheaper(feature_map, q.shape[2], k.shape[2], q.shape[3]) else "chunked"
    announce("%s, %s on %s: backend %s", type(feature_map).__name__, _direction(causal), q.device.type, form)
    return form


def pairs_are_cheaper(feature_map: FeatureMap, queries: int, keys: int, width: int) -> bool:
    """Whether forming the scores of all pairs takes less work, and no more memory, than the features."""
    # Multiply-adds per head: 2 n m d for scores and outputs, against (n + m) f d to write and read the state; with
    # n = m that is up to f tokens. Scores hold n m numbers, features (n + m) f.
    has_kernel = isinstance(feature_map, KernelFeatureMap)
    return has_kernel and 2 * queries * keys <= (queries + keys) * feature_map.feature_dim


def announce(message: str, *values: object) -> None:
    """Logs a message at level INFO, once per process for the same values."""
    if (message, *values) not in _announced:
        _announced.add((message, *values))
        logger.info(message, *values)


def _direction(causal: bool) -> str:
    return "causal" if causal else "bidirectional"
