"""Texts as batches: tokenised once, padded to the longest row of each batch."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from transformers import PreTrainedTokenizerBase

from mimicry.data.batches import Rows
from mimicry.data.task import Example

MIN_LENGTH = 8


@dataclass(frozen=True)
class EncodedRow:
    """One tokenised example: the tokenizer's fields (`input_ids`, `attention_mask`, ...) and its label."""

    inputs: dict[str, list[int]]
    label: int | float

    def __len__(self) -> int:
        return len(self.inputs["input_ids"])


class TextEncoder:
    """Tokenises texts, and pads rows to the longest of their batch.

    Args:
        tokenizer: of the model that will read the rows.
        max_length: in tokens, special ones included; a row that is too long loses tokens at the end of its longer
            text first.

    Raises:
        ValueError: if `max_length` is below 8, or the tokenizer has no pad token.
    """

    workers = 0

    def __init__(self, tokenizer: PreTrainedTokenizerBase, max_length: int) -> None:
        if max_length < MIN_LENGTH:
            raise ValueError(f"max_length must be >= {MIN_LENGTH}, got {max_length}")
        if tokenizer.pad_token_id is None:
            raise ValueError(f"tokenizer must have a pad token, got none in {type(tokenizer).__name__}")
        self.tokenizer = tokenizer
        self.max_length = max_length

    def encode(self, examples: Sequence[Example]) -> list[EncodedRow]:
        """Tokenise examples, all with a pair or all without.

        Raises:
            ValueError: if there are no examples, or one has no tokens.
        """
        if not examples:
            raise ValueError("examples must not be empty, got 0")
        texts = [example.text for example in examples]
        pairs = None if examples[0].pair is None else [example.pair for example in examples]
        encoded = self.tokenizer(texts, pairs, truncation="longest_first", max_length=self.max_length)
        rows = []
        for index, example in enumerate(examples):
            row = EncodedRow({key: values[index] for key, values in encoded.items()}, example.label)
            if len(row) == 0:
                raise ValueError(f"examples must have at least one token each, got none for {index}: {example.text!r}")
            rows.append(row)
        return rows

    def lengths(self, rows: Rows) -> list[int]:
        """Tokens of each row."""
        return [len(rows[index]) for index in range(len(rows))]

    def collate(self, rows: Sequence[EncodedRow]) -> dict[str, Tensor]:
        """The tokenizer's fields, padded to the longest row, and `labels`: class ids, or float32 scores."""
        batch = self.tokenizer.pad([row.inputs for row in rows], padding="longest", return_tensors="pt")
        labels = [row.label for row in rows]
        # Python floats are scores to regress on; the losses want them in the precision of the logits.
        dtype = torch.float32 if isinstance(labels[0], float) else torch.long
        return {**batch, "labels": torch.tensor(labels, dtype=dtype)}

    def position_names(self, row: EncodedRow) -> list[str]:
        """The row's tokens."""
        return self.tokenizer.convert_ids_to_tokens(row.inputs["input_ids"])
