"""Chats as prompts, with their summaries to predict."""

from collections.abc import Sequence

import torch
from torch import Tensor
from transformers import PreTrainedTokenizerBase

from mimicry.data.batches import Rows
from mimicry.data.language_rows import LanguageRow, check_tokenizer, collate_rows, words_per_token
from mimicry.data.samsum import Dialogue


class SummaryEncoder:
    """One row for each chat: the prompt, then its summary and an end-of-text token, which alone are predicted.

    Whatever is longer than the model's context is cut, and in the same way where summaries are generated: a summary
    keeps its first `summary_tokens` - 1 tokens, a chat loses its last ones until its prompt leaves `summary_tokens`
    free.

    Args:
        tokenizer: of the model that will read the rows.
        max_length: of a row in tokens.
        prompt: the text before a summary, with `{dialogue}` once where the chat goes.
        summary_tokens: of a summary at most, its end of text included.

    Raises:
        ValueError: if a length is out of range, or the tokenizer has no end-of-text or pad token or is not a fast one.
    """

    workers = 0

    def __init__(self, tokenizer: PreTrainedTokenizerBase, max_length: int, prompt: str, summary_tokens: int) -> None:
        check_tokenizer(tokenizer, max_length)
        self.tokenizer = tokenizer
        self.prompt_tokens = max_length - summary_tokens
        self.summary_tokens = summary_tokens
        self.before, self.after = prompt.split("{dialogue}")
        bare = len(tokenizer(self.before + self.after)["input_ids"])
        if bare >= self.prompt_tokens:
            raise ValueError(
                f"max_length must leave room for a chat beside its prompt ({bare} tokens) "
                f"and summary (summary_tokens={summary_tokens}), got {max_length}"
            )

    def encode(self, examples: Sequence[Dialogue]) -> list[LanguageRow]:
        """One row for each example, in order; its `reference` is the whole summary.

        Raises:
            ValueError: if there are no examples.
        """
        if not examples:
            raise ValueError("examples must not be empty, got 0")
        prompts = [self.before + example.dialogue + self.after for example in examples]
        summaries = [example.summary for example in examples]
        prefixed = self.tokenizer(prompts, return_offsets_mapping=True, verbose=False)
        answers = self.tokenizer(summaries, return_offsets_mapping=True, add_special_tokens=False, verbose=False)
        rows = []
        for index, example in enumerate(examples):
            given = self._shorten(prefixed["input_ids"][index], prefixed["offset_mapping"][index], example)
            answer = answers["input_ids"][index]
            words = words_per_token(example.summary, [end for _, end in answers["offset_mapping"][index]])
            kept = answer[: self.summary_tokens - 1]
            # A summary that was cut does not end where it was cut.
            ending = [self.tokenizer.eos_token_id] if len(kept) == len(answer) else []
            ids = torch.tensor([*given, *kept, *ending], dtype=torch.int32)
            rows.append(LanguageRow(ids, len(given), int(words[: len(kept)].sum()), example.summary))
        return rows

    def lengths(self, rows: Rows) -> list[int]:
        """Tokens of each row."""
        return [len(rows[index]) for index in range(len(rows))]

    def collate(self, rows: Sequence[LanguageRow]) -> dict[str, Tensor]:
        """`input_ids`, unshifted `labels` and `words`, and `attention_mask` when a row is padded."""
        return collate_rows(rows, self.tokenizer.pad_token_id)

    def position_names(self, row: LanguageRow) -> list[str]:
        """The row's tokens."""
        return self.tokenizer.convert_ids_to_tokens(row.input_ids.tolist())

    def _shorten(self, ids: list[int], offsets: list[tuple[int, int]], example: Dialogue) -> list[int]:
        """The prompt's tokens, without those at the end of the chat that there is no room for."""
        excess = len(ids) - self.prompt_tokens
        if excess <= 0:
            return ids
        end = len(self.before) + len(example.dialogue)
        # The first token that belongs to what comes after the chat.
        after = next((index for index, (start, _) in enumerate(offsets) if start >= end), len(ids))
        return ids[: after - excess] + ids[after:]
