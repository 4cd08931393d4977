"""What the causal and the bidirectional pass over blocks share."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from mimicry.attention.features import BlockFeatures
from mimicry.attention.inputs import Maps
from mimicry.attention.scratch import Scratch
from mimicry.shapes import ChunkFeatures, HeadStates, KeyMask, Keys, Outputs, Queries, RowScores, Values

# q, k, v, key mask, outputs, 1 / normaliser and gradient of the outputs, all of the same batch rows.
Inputs = tuple[Queries, Keys, Values, KeyMask | None, Outputs, RowScores, Outputs]

# A state with batch and heads in one axis: sums of phi(k) v^T and of phi(k).
Folded = tuple[Tensor, Tensor]


@dataclass(frozen=True)
class Gradients:
    """Where a backward pass leaves what it finds: slices of q, k, v written, parameters added to."""

    q: Queries
    k: Keys
    v: Values
    query_parameters: Mapping[str, Tensor]
    key_parameters: Mapping[str, Tensor]

    def pull_queries(
        self,
        features: BlockFeatures,
        x: HeadStates,
        at: slice,
        phi: ChunkFeatures,
        grad: ChunkFeatures,
        memory: Scratch,
    ) -> None:
        """Takes the gradient of the features of a block of queries on to tokens and parameters."""
        mine, found = features.pull_back(features.maps.query, x, at.start, phi, grad, memory)
        self.q[:, :, at] = mine
        for name, other in found.items():
            self.query_parameters[name].add_(other)

    def pull_keys(
        self,
        features: BlockFeatures,
        x: HeadStates,
        at: slice,
        key_mask: KeyMask | None,
        phi: ChunkFeatures,
        grad: ChunkFeatures,
        memory: Scratch,
    ) -> None:
        """The same for a block of keys; masked ones get none."""
        if key_mask is not None:
            grad = grad.masked_fill_(~key_mask.unflatten(1, grad.shape[2:4])[:, None, :, :, None], 0.0)
        mine, found = features.pull_back(features.maps.key, x, at.start, phi, grad, memory)
        self.k[:, :, at] = mine
        for name, other in found.items():
            self.key_parameters[name].add_(other)


def inverse_of(denominator: Tensor, eps: float) -> Tensor:
    """1 / denominator; 0 for rows that sum to less than `eps`, which see no key. NaN stays NaN."""
    return denominator.reciprocal().masked_fill_(denominator < eps, 0.0)


def write(target: Tensor, numerator: Tensor, factor: Tensor) -> None:
    """Target = numerator * factor, rounded once."""
    if target.dtype == numerator.dtype:
        torch.mul(numerator, factor[..., None], out=target)
    else:
        target.copy_(numerator.mul_(factor[..., None]))


def normaliser_gradients(grad: Tensor, out: Tensor, inverse: Tensor, of_numerator: Tensor, memory: Scratch) -> Tensor:
    """Writes the gradient of the numerator of a block of rows (in any layout), returns that of the denominator."""
    torch.mul(grad, inverse[..., None], out=of_numerator)
    product = torch.mul(of_numerator, out, out=memory.take("product", *out.shape))
    return product.sum(dim=-1).neg_()


def parameters_of(maps: Maps) -> tuple[Tensor, ...]:
    """Every parameter of both maps once."""
    return tuple(dict.fromkeys((*maps.query.parameters(), *maps.key.parameters())))


def by_parameter(maps: Maps, totals: Sequence[Mapping[str, Tensor]]) -> list[Tensor | None]:
    """Gradients in the order of `parameters_of`, from those of either map by name; tied maps add theirs up."""
    found: dict[int, Tensor] = {}
    for feature_map, mine in zip((maps.query, maps.key), totals, strict=True):
        for name, p in feature_map.named_parameters():
            found[id(p)] = found[id(p)] + mine[name] if id(p) in found else mine[name]
    return [found[id(p)].to(p.dtype) if p.requires_grad else None for p in parameters_of(maps)]
