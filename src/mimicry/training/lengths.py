"""Attention on texts longer than those of the task: validation rows one after another, to a given number of tokens."""

import inspect
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Literal, get_args

import torch
from torch import Tensor, nn

from mimicry.conversion.site import first_position
from mimicry.data.batches import Encoder, Rows, model_inputs
from mimicry.training.attention_statistics import CurveNumbers

PastMaximum = Literal["refuse", "repeat", "extrapolate"]


@dataclass(frozen=True)
class Lengths:
    """Lengths at which divergence and entropy are measured as well. Source: arXiv 2402.04347, Sec. 5 (length).

    How the paper numbers positions beyond BERT's 512 is not known, so that it has to be chosen here.

    Args:
        tokens: lengths, each >= 2; none measures the task's own rows alone.
        texts: of each length, >= 1.
        past_maximum: of positions that the model has none for: "refuse" them; "repeat" its positions from the first
            one on, for tables of positions; "extrapolate", which rotary positions can.

    Raises:
        ValueError: if a value is out of range.
    """

    tokens: Sequence[int] = ()
    texts: int = 4
    past_maximum: PastMaximum = "refuse"

    def __post_init__(self) -> None:
        for value in self.tokens:
            if value < 2:
                raise ValueError(f"analysis.full.lengths.tokens must be >= 2, got {value}")
        if self.texts < 1:
            raise ValueError(f"analysis.full.lengths.texts must be >= 1, got {self.texts}")
        if self.past_maximum not in get_args(PastMaximum):
            known = ", ".join(get_args(PastMaximum))
            raise ValueError(f"analysis.full.lengths.past_maximum must be one of {known}, got {self.past_maximum!r}")

    def check(self, model: nn.Module) -> None:
        """Refuses lengths that this model cannot be run at; ValueError with one line."""
        if not self.tokens:
            return
        config: Any = getattr(model, "config", None)
        if not hasattr(config, "max_position_embeddings"):
            raise ValueError("analysis.full.lengths needs a text model of the host library, which knows its positions")
        longest, maximum = max(self.tokens), _positions(config)
        if longest <= maximum:
            return
        name = "analysis.full.lengths.past_maximum"
        rotary = getattr(config, "rope_parameters", None) is not None
        if self.past_maximum == "refuse":
            way = "extrapolate" if rotary else "repeat"
            raise ValueError(
                f"{name} must say how {longest} tokens get positions, of which the model has {maximum}: {way}"
            )
        if (self.past_maximum == "extrapolate") != rotary:
            kind = "rotary" if rotary else "a table of"
            raise ValueError(f"{name} must fit the model, which has {kind} positions, got {self.past_maximum}")
        if not rotary and "position_ids" not in inspect.signature(model.forward).parameters:
            raise ValueError(f"{name} must be refuse for {config.model_type}, which numbers its positions itself")

    def batches(self, model: nn.Module, encoder: Encoder, rows: Rows, tokens: int) -> Iterator[dict[str, Tensor]]:
        """Texts of `tokens` tokens, a batch each: rows in their order, cut where a text is full, special tokens kept.

        Raises:
            ValueError: if there are not enough tokens for one text.
        """
        ids = torch.cat([model_inputs(encoder.collate([rows[index]]))["input_ids"][0] for index in range(len(rows))])
        if len(ids) < tokens:
            raise ValueError(f"analysis.full.lengths.tokens must be <= the {len(ids)} tokens of all rows, got {tokens}")
        config: Any = model.config
        maximum = _positions(config)
        for start in range(0, min(self.texts, len(ids) // tokens) * tokens, tokens):
            batch = {"input_ids": ids[None, start : start + tokens]}
            if tokens > maximum and self.past_maximum == "repeat":
                positions = (torch.arange(tokens) % maximum + first_position(config))[None]
                batch |= {"position_ids": positions, "attention_mask": torch.ones_like(positions)}
                if "token_type_ids" in inspect.signature(model.forward).parameters:
                    batch["token_type_ids"] = torch.zeros_like(positions)
            yield batch


def length_curves(measured: Sequence[tuple[int, float, float]], alone: bool) -> tuple[CurveNumbers, ...]:
    """Curves of (tokens, divergence, entropy); without the divergence of a model that imitates none."""
    if not measured:
        return ()
    tokens, kl, entropy = (list(map(float, values)) for values in zip(*measured, strict=True))
    sharpness = CurveNumbers("analysis/entropy", "tokens", tokens, entropy)
    return (sharpness,) if alone else (CurveNumbers("analysis/kl", "tokens", tokens, kl), sharpness)


def _positions(config: Any) -> int:
    return int(config.max_position_embeddings) - first_position(config)
