"""Which form of linear attention runs: the one asked for, or the cheapest for the sizes. Choices are logged."""

import logging
from importlib.util import find_spec
from typing import Literal, get_args

from mimicry.attention import triton
from mimicry.attention.feature_maps.base import FeatureMap, KernelFeatureMap
from mimicry.attention.feature_maps.hedgehog import HedgehogFeatureMap
from mimicry.shapes import Keys, Queries, Values

logger = logging.getLogger(__name__)

Backend = Literal["auto", "reference", "chunked", "triton", "fla"]
Form = Literal["reference", "chunked", "triton", "fla"]

_announced: set[tuple[object, ...]] = set()


def check_backend(backend: str) -> None:
    """Raises ValueError unless there is such a backend and its library is installed."""
    if backend not in get_args(Backend):
        raise ValueError(f"backend must be one of {', '.join(get_args(Backend))}, got {backend!r}")
    if backend == "triton" and not triton.is_available():
        raise ValueError("backend must be one that is installed, got 'triton': pip install triton")
    if backend == "fla" and find_spec("fla") is None:
        raise ValueError("backend must be one that is installed, got 'fla': pip install flash-linear-attention")


def choose(backend: Backend, feature_map: FeatureMap, q: Queries, k: Keys, v: Values, causal: bool) -> Form:
    """The form to run for these queries and keys.

    Raises:
        ValueError: if the one asked for cannot run them.
    """
    if backend == "triton" and (reason := _unfit_for_triton(feature_map, q, k, v, causal)) is not None:
        raise ValueError(f"backend must be able to run the layer, got 'triton': {reason}")
    if backend == "fla" and not (causal and q.is_cuda):
        raise ValueError("backend must be able to run the layer, got 'fla': it is for causal attention on a GPU")
    if backend != "auto":
        return backend
    if q.is_cuda and triton.is_available() and _unfit_for_triton(feature_map, q, k, v, causal) is None:
        form: Form = "triton"
    else:
        form = "reference" if pairs_are_cheaper(feature_map, q.shape[2], k.shape[2]) else "chunked"
    direction = "causal" if causal else "bidirectional"
    announce("%s, %s on %s: backend %s", type(feature_map).__name__, direction, q.device.type, form)
    return form


def pairs_are_cheaper(feature_map: FeatureMap, queries: int, keys: int) -> bool:
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


def _unfit_for_triton(feature_map: FeatureMap, q: Queries, k: Keys, v: Values, causal: bool) -> str | None:
    """Why the fused kernels cannot run this, or None."""
    if not isinstance(feature_map, HedgehogFeatureMap):
        return f"its kernels are for HedgehogFeatureMap, not {type(feature_map).__name__}"
    sizes = (q.shape[3], v.shape[3], feature_map.projection.num_features)
    return triton.unfit(sizes, q.dtype, causal, q.shape[2], k.shape[2])
