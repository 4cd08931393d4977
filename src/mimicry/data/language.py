"""Documents as one stream of tokens, cut into blocks."""

from collections.abc import Iterator, Sequence

import numpy as np
import torch
from torch import Tensor
from transformers import PreTrainedTokenizerBase

from mimicry.data.batches import Rows
from mimicry.data.language_rows import LanguageRow, check_tokenizer, collate_rows, words_per_token

# Offsets are Python objects and large: so many documents are held in that form at once.
DOCUMENTS_AT_ONCE = 32


class LanguageBlocks:
    """Blocks of a stream, in which every token but the stream's first is predicted exactly once.

    Block i predicts the tokens from 1 + i * stride on, `stride` of them (the last block: the rest), after
    `max_length - stride` tokens of context, or fewer where the stream begins.

    Args:
        stream: token ids of shape (tokens,), int32, at least two.
        words: that end in each token, of the same shape.
        max_length: the longest block in tokens.
        stride: tokens that a block predicts, from 1 to max_length - 1.
    """

    def __init__(self, stream: Tensor, words: np.ndarray, max_length: int, stride: int) -> None:
        self.stream = stream
        self.max_length = max_length
        self.stride = stride
        firsts = np.arange(1, len(stream), stride)
        # The stream opens with a token that is no word's: nothing of the sum is lost by starting at the second.
        self.words: list[int] = np.add.reduceat(words, firsts).tolist()

    def __len__(self) -> int:
        return len(self.words)

    def __getitem__(self, index: int) -> LanguageRow:
        if not 0 <= index < len(self):
            raise IndexError(f"index must be from 0 to {len(self) - 1}, got {index}")
        first = 1 + index * self.stride
        start = max(0, first + self.stride - self.max_length)
        return LanguageRow(self.stream[start : first + self.stride], first - start, self.words[index])


class LanguageEncoder:
    """Tokenises documents, joins them into one stream and cuts it into blocks of `max_length` tokens.

    The stream opens with the tokenizer's end-of-text token, and so does each document when they are `separated`:
    every token of the text is predicted, the first one too. Blocks meet in one token, the last of one block being the
    given first of the next, so that a sum over blocks leaves nothing out and counts nothing twice; only the last
    block may be shorter. Perplexity per word is exp(sum of losses / sum of `words`), per token exp(their mean).

    Args:
        tokenizer: of the model that will read the blocks.
        max_length: of a block in tokens.
        separated: False joins documents that are pieces of one running text.
        stride: predict so many tokens of each block and give the others as context; None predicts all but the first.

    Raises:
        ValueError: if a length is out of range, or the tokenizer has no end-of-text or pad token or is not a fast one.
    """

    workers = 0

    def __init__(
        self,
        tokenizer: PreTrainedTokenizerBase,
        max_length: int,
        separated: bool = True,
        stride: int | None = None,
    ) -> None:
        check_tokenizer(tokenizer, max_length)
        if stride is not None and not 1 <= stride < max_length:
            raise ValueError(f"stride must be from 1 to max_length - 1 = {max_length - 1} or null, got {stride}")
        self.tokenizer = tokenizer
        self.max_length = max_length
        self.separated = separated
        self.stride = stride or max_length - 1

    def encode(self, documents: Sequence[str]) -> LanguageBlocks:
        """Blocks of the stream of all documents, in order.

        Raises:
            ValueError: if there are no documents, or no tokens in them.
        """
        if not documents:
            raise ValueError("documents must not be empty, got 0")
        opening = [self.tokenizer.eos_token_id]
        tokens, words = [np.array(opening, np.int32)], [np.zeros(1, np.int32)]
        for index, (ids, ends) in enumerate(self._tokenise(documents)):
            if self.separated and index > 0:
                tokens.append(tokens[0])
                words.append(words[0])
            tokens.append(ids)
            words.append(words_per_token(documents[index], ends))
        stream = torch.from_numpy(np.concatenate(tokens))
        if len(stream) < 2:
            raise ValueError(f"documents must have at least one token, got none in {len(documents)} documents")
        return LanguageBlocks(stream, np.concatenate(words), self.max_length, self.stride)

    def lengths(self, rows: Rows) -> list[int]:
        """Tokens of each row."""
        return [len(rows[index]) for index in range(len(rows))]

    def collate(self, rows: Sequence[LanguageRow]) -> dict[str, Tensor]:
        """`input_ids`, unshifted `labels` and `words`, and `attention_mask` when a row is padded."""
        return collate_rows(rows, self.tokenizer.pad_token_id)

    def position_names(self, row: LanguageRow) -> list[str]:
        """The row's tokens."""
        return self.tokenizer.convert_ids_to_tokens(row.input_ids.tolist())

    def _tokenise(self, documents: Sequence[str]) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        """Token ids of each document, and where in its text they end."""
        for start in range(0, len(documents), DOCUMENTS_AT_ONCE):
            encoded = self.tokenizer(
                list(documents[start : start + DOCUMENTS_AT_ONCE]),
                add_special_tokens=False,
                return_attention_mask=False,
                return_offsets_mapping=True,
                # Documents are longer than the model's context; that is what blocks are for.
                verbose=False,
            )
            for ids, offsets in zip(encoded["input_ids"], encoded["offset_mapping"], strict=True):
                yield np.array(ids, np.int32), np.array(offsets, np.int64).reshape(-1, 2)[:, 1]
