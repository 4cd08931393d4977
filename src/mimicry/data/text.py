"""From examples to padded batches: tokenised once, then dealt out by each stage in its own batch size and order."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from lightning import LightningDataModule
from torch import Tensor
from torch.utils.data import DataLoader
from transformers import PreTrainedTokenizerBase

from mimicry.data.sampler import LengthBucketSampler
from mimicry.data.task import Example, check_limit, limit_rows

MIN_LENGTH = 8
# Scores do not depend on it; without gradients this fits wherever training fits.
VALIDATION_BATCH_SIZE = 64


@dataclass(frozen=True)
class EncodedRow:
    """One tokenised example: the tokenizer's fields (`input_ids`, `attention_mask`, ...) and its label."""

    inputs: dict[str, list[int]]
    label: int | float

    def __len__(self) -> int:
        return len(self.inputs["input_ids"])


def encode(examples: Sequence[Example], tokenizer: PreTrainedTokenizerBase, max_length: int) -> list[EncodedRow]:
    """Tokenise without padding; a row that is too long loses tokens at the end of its longer text first.

    Args:
        examples: all with a pair or all without.
        tokenizer: of the model that will read the rows.
        max_length: in tokens, special ones included.

    Raises:
        ValueError: if `max_length` is below 8, there are no examples, or one has no tokens.
    """
    if max_length < MIN_LENGTH:
        raise ValueError(f"max_length must be >= {MIN_LENGTH}, got {max_length}")
    if not examples:
        raise ValueError("examples must not be empty, got 0")
    texts = [example.text for example in examples]
    pairs = None if examples[0].pair is None else [example.pair for example in examples]
    encoded = tokenizer(texts, pairs, truncation="longest_first", max_length=max_length)
    rows = []
    for index, example in enumerate(examples):
        row = EncodedRow({key: values[index] for key, values in encoded.items()}, example.label)
        if len(row) == 0:
            raise ValueError(f"examples must have at least one token each, got none for {index}: {example.text!r}")
        rows.append(row)
    return rows


class TextDataModule(LightningDataModule):
    """Batches for one stage; several stages share the same encoded rows.

    A batch holds the tokenizer's fields, padded to the batch's longest row, and `labels`: integer class ids, or float32
    scores. Training batches change with each epoch; validation batches never do and hold every row.

    Args:
        train_rows: what `encode` made of the training split.
        validation_rows: what `encode` made of the validation split.
        tokenizer: the one that encoded the rows.
        batch_size: of training batches.
        seed: draws the subset and the order of training rows.
        max_train_rows: train on this many rows; None trains on all.

    Raises:
        ValueError: if a split is empty, the batch size or the limit is below 1, or the tokenizer has no pad token.
    """

    def __init__(
        self,
        train_rows: Sequence[EncodedRow],
        validation_rows: Sequence[EncodedRow],
        tokenizer: PreTrainedTokenizerBase,
        batch_size: int,
        seed: int,
        max_train_rows: int | None = None,
    ) -> None:
        super().__init__()
        for argument, rows in (("train_rows", train_rows), ("validation_rows", validation_rows)):
            if not rows:
                raise ValueError(f"{argument} must not be empty, got 0 rows")
        check_limit("max_train_rows", max_train_rows)
        if tokenizer.pad_token_id is None:
            raise ValueError(f"tokenizer must have a pad token, got none in {type(tokenizer).__name__}")
        self.train_rows = limit_rows(train_rows, max_train_rows, seed)
        self.validation_rows = sorted(validation_rows, key=len)
        self.tokenizer = tokenizer
        self.batch_size = batch_size
        self.sampler = LengthBucketSampler([len(row) for row in self.train_rows], batch_size, seed)

    def train_dataloader(self) -> DataLoader:
        """Batches of rows with similar lengths, in an order of their own for each epoch."""
        return DataLoader(self.train_rows, self.batch_size, sampler=self.sampler, collate_fn=self._collate)

    def val_dataloader(self) -> DataLoader:
        """Every validation row once, shortest first."""
        return DataLoader(self.validation_rows, VALIDATION_BATCH_SIZE, collate_fn=self._collate)

    def _collate(self, rows: Sequence[EncodedRow]) -> dict[str, Tensor]:
        batch = self.tokenizer.pad([row.inputs for row in rows], padding="longest", return_tensors="pt")
        labels = [row.label for row in rows]
        # Python floats are scores to regress on; the losses want them in the precision of the logits.
        dtype = torch.float32 if isinstance(labels[0], float) else torch.long
        return {**batch, "labels": torch.tensor(labels, dtype=dtype)}
