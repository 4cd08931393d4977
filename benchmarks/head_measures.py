"""What one head of a conversion misses, and what it is worth: divergence, and attention that keeps softmax in it."""

import copy
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from mimicry.analysis import attention_kl
from mimicry.attention import Attention
from mimicry.attention.capture import attention_layers, capture
from mimicry.data.batches import TaskBatches, model_inputs
from mimicry.shapes import KeyMask, Keys, Outputs, Queries, Values, Weights


@dataclass(frozen=True)
class HeadFigures:
    """Of one head, means over the queries of all rows.

    Args:
        kl: divergence from softmax on the teacher's own queries and keys, in nats.
        kl_own: the same in the student's own forward pass, errors of earlier layers included.
        same: the teacher's weight on other occurrences of the query's own token, specials left out, in [0, 1].
    """

    layer: int
    head: int
    kl: float
    kl_own: float
    same: float


@torch.no_grad()
def head_figures(teacher: nn.Module, student: nn.Module, batches: TaskBatches, specials: set[int]) -> list[HeadFigures]:
    """Every head's, on the held-out rows."""
    teachers, students = attention_layers(teacher), attention_layers(student)
    sums: dict[str, Tensor] = {}
    queries = 0
    for batch in batches.measuring(batches.held_out):
        inputs = model_inputs(batch)
        with capture(teacher) as given, capture(student) as own:
            teacher(**inputs)
            student(**inputs)
        counted, same = batch["attention_mask"].bool(), other_occurrences(batch["input_ids"], specials)
        queries += int(counted.sum())
        for name in teachers:
            seen, path = given[name], own[name]
            a = teachers[name].weights(seen.q, seen.k, seen.key_mask)
            forced = students[name].weights(seen.q, seen.k, seen.key_mask)
            walked = students[name].weights(path.q, path.k, path.key_mask)
            kls = [attention_kl(a, b, seen.key_mask) for b in (forced, walked)]
            per_query = torch.stack([*kls, (a * same[:, None]).sum(dim=-1)])
            found = (per_query * counted[:, None]).sum(dim=(1, 3))
            sums[name] = sums.get(name, torch.zeros_like(found)) + found
    return [
        HeadFigures(layer, head, *(sums[name][:, head] / queries).tolist())
        for layer, name in enumerate(teachers)
        for head in range(teachers[name].dims.num_heads)
    ]


def other_occurrences(ids: Tensor, specials: set[int]) -> Tensor:
    """(rows, n, n): 1 where the key is the same token as the query at another place, and no special one."""
    equal = (ids[:, :, None] == ids[:, None, :]) & ~torch.eye(ids.shape[1], dtype=torch.bool)
    return (equal & ~torch.isin(ids, torch.tensor(sorted(specials)))[:, None, :]).float()


class PartlySoftmax(Attention):
    """A converted attention some of whose heads keep softmax."""

    def __init__(self, converted: Attention, softmax: Attention, heads: Sequence[int]) -> None:
        super().__init__(converted.dims)
        self.converted, self.softmax = converted, softmax
        self.register_buffer("kept", torch.zeros(converted.dims.num_heads, 1, 1, dtype=torch.bool))
        self.kept[list(heads)] = True

    def forward(self, q: Queries, k: Keys, v: Values, key_mask: KeyMask | None = None) -> Outputs:
        return torch.where(self.kept, self.softmax(q, k, v, key_mask), self.converted(q, k, v, key_mask))

    def weights(self, q: Queries, k: Keys, key_mask: KeyMask | None = None) -> Weights:
        return torch.where(self.kept, self.softmax.weights(q, k, key_mask), self.converted.weights(q, k, key_mask))


def with_softmax(student: nn.Module, teacher: nn.Module, kept: Mapping[int, Sequence[int]]) -> nn.Module:
    """A copy of the student in which `kept`, layer -> heads, have the teacher's attention."""
    patched = copy.deepcopy(student)
    softmax = list(attention_layers(teacher).values())
    for layer, (name, attention) in enumerate(attention_layers(patched).items()):
        if layer in kept:
            parent, _, attribute = name.rpartition(".")
            partly = PartlySoftmax(attention, copy.deepcopy(softmax[layer]), kept[layer])
            setattr(patched.get_submodule(parent), attribute, partly)
    return patched.eval()
