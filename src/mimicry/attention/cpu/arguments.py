"""What all kernels in C ask of layers and tensors, and how tensors are handed to them, where no gradients are."""

import torch
from torch import Tensor

from mimicry.attention.cpu.compiled import library
from mimicry.attention.feature_maps.hedgehog import HedgehogFeatureMap
from mimicry.attention.feature_maps.projection import HeadProjection
from mimicry.attention.inputs import Maps


def can_run(maps: Maps, x: Tensor) -> bool:
    """Whether the maps are Hedgehog's, the sums over `x` float32 on a CPU, and a compiler is on this machine."""
    return (
        isinstance(maps.query, HedgehogFeatureMap)
        and isinstance(maps.key, HedgehogFeatureMap)
        and x.dtype == torch.float32
        and x.device.type == "cpu"
        and not torch.compiler.is_compiling()
        and library() is not None
    )


def projections(maps: Maps) -> tuple[HeadProjection, HeadProjection]:
    """Those of the maps of a layer that the kernels can run."""
    assert isinstance(maps.query, HedgehogFeatureMap)
    assert isinstance(maps.key, HedgehogFeatureMap)
    return maps.query.projection, maps.key.projection


def numbers(part: HeadProjection) -> tuple[Tensor, Tensor | None]:
    """W and b as the kernels read them: no copies where they are float32, as they are trained."""
    bias = part.bias
    return part.weight.float().contiguous(), None if bias is None else bias.float().contiguous()


def rows(x: Tensor) -> Tensor:
    """With contiguous rows."""
    return x if x.stride(3) == 1 else x.contiguous()


def address(tensor: Tensor | None) -> int | None:
    return None if tensor is None else tensor.data_ptr()
