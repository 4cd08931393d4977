"""Rows of tokens to predict, and their batches: what every language task has in common."""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

# Labels that host models and torch's cross-entropy leave out.
IGNORED = -100
MIN_LENGTH = 8
WORD = re.compile(r"\S+")


@dataclass(frozen=True)
class LanguageRow:
    """Consecutive tokens, the last of which are to be predicted.

    Attributes:
        input_ids: of shape (tokens,), int32.
        context: so many tokens at the start are given and not predicted, from 1 to all but one.
        words: of the original text, separated by whitespace, that end in the predicted tokens.
        reference: what a model should write after the context, for scores of generated text.
    """

    input_ids: Tensor
    context: int
    words: int
    reference: str | None = None

    def __len__(self) -> int:
        return len(self.input_ids)


def collate_rows(rows: Sequence[LanguageRow], pad_token_id: int) -> dict[str, Tensor]:
    """One batch, padded at the end to its longest row.

    Args:
        rows: at least one.
        pad_token_id: stands in padded places, where it is neither attended to nor predicted.

    Returns:
        `input_ids`; `labels`, equal to them where a token is predicted and -100 elsewhere, not shifted; `words` of
        shape (rows,), float32; and `attention_mask` when a row is padded.
    """
    longest = max(len(row) for row in rows)
    input_ids = torch.full((len(rows), longest), pad_token_id, dtype=torch.long)
    labels = torch.full_like(input_ids, IGNORED)
    mask = torch.zeros_like(input_ids)
    for index, row in enumerate(rows):
        input_ids[index, : len(row)] = row.input_ids
        labels[index, row.context : len(row)] = row.input_ids[row.context :]
        mask[index, : len(row)] = 1
    batch = {"input_ids": input_ids, "labels": labels, "words": torch.tensor([float(row.words) for row in rows])}
    # Without a mask the host models and our kernels take their faster paths.
    return batch if bool(mask.all()) else {**batch, "attention_mask": mask}


def check_tokenizer(tokenizer: Any, max_length: int) -> None:
    """Refuses what no language task can work with.

    Raises:
        ValueError: if `max_length` is below 8, or the tokenizer has no end-of-text or pad token, or no fast
            implementation, which alone knows where in the text its tokens stand.
    """
    if max_length < MIN_LENGTH:
        raise ValueError(f"max_length must be >= {MIN_LENGTH}, got {max_length}")
    for article, role in (("an", "eos"), ("a", "pad")):
        if getattr(tokenizer, f"{role}_token_id") is None:
            raise ValueError(f"tokenizer must have {article} {role} token, got none in {type(tokenizer).__name__}")
    if not tokenizer.is_fast:
        raise ValueError(f"tokenizer must be a fast one, got {type(tokenizer).__name__}")


def words_per_token(text: str, ends: Sequence[int] | np.ndarray) -> np.ndarray:
    """How many words of a text end in each of its tokens.

    Args:
        text: words are what whitespace separates.
        ends: where in it the tokens end.

    Returns:
        Of shape (tokens,), int32; the sum is the number of words if there is a token at all.
    """
    word_ends = np.array([match.end() for match in WORD.finditer(text)], np.int64)
    finished = np.searchsorted(word_ends, np.maximum.accumulate(ends), side="right")
    # Whatever a tokenizer drops at the end of a text still belongs to the text.
    finished[-1:] = len(word_ends)
    return np.diff(finished, prepend=0).astype(np.int32)
