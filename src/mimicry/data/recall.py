"""Associative recall: which value did this key come with, earlier in the sequence?"""

from typing import TYPE_CHECKING, Any, Literal, get_args

import numpy as np

from mimicry.data.draws import Draws, Integers
from mimicry.data.generated import TRAIN, VALIDATION, check_at_least, check_even, generated_data
from mimicry.data.task import TaskData
from mimicry.data.token_rows import IGNORED, TokenRows, draw_table

if TYPE_CHECKING:
    from mimicry.data.batches import Encoder

Scored = Literal["all", "answer"]
# After the pairs: the marker, the key asked for, and its value.
QUESTION = 3


class AssociativeRecall:
    """Key, value, key, value, ..., marker, key: the model must say the key's value.

    Half of the symbols are keys, half are values. Each sequence draws a map of its own from keys to values, then its
    pairs, with repetition; the key asked for is any of those that occurred. A test row scores its last token alone.
    The same options give the same rows on every machine, and fewer rows are the first ones of more.

    Args:
        num_symbols: keys and values together, even, >= 4; the marker is one more token.
        length: tokens of all pairs, even, >= 2; a row has three more.
        score: "all" trains on every token of a training row, as the source does, "answer" on the last alone.
        seed: draws the rows, >= 0; apart from a run's own seed, so that all runs share them.
        max_train_rows: sequences to train on, >= 1; there is no end of them.
        max_validation_rows: sequences to score on, >= 1.

    Attributes:
        vocab_size: token ids of all rows are below it: keys, then values, then the marker.
        max_length: tokens of a row.

    Raises:
        ValueError: if an option is out of its range.

    Source: arXiv 2402.04347, Table 2, for the numbers of rows; arXiv 2212.14052, Sec. 3.1, for what is drawn. That the
    paper had 40 symbols and a length of 128 is not certain.
    """

    name = "associative_recall"
    modality = "tokens"
    num_labels = 0
    metrics: tuple[str, ...] = ("accuracy",)

    def __init__(
        self,
        num_symbols: int = 40,
        length: int = 128,
        score: Scored = "all",
        seed: int = 0,
        max_train_rows: int = 10_000,
        max_validation_rows: int = 2_000,
    ) -> None:
        check_even("num_symbols", num_symbols, 4)
        check_even("length", length, 2)
        if score not in get_args(Scored):
            raise ValueError(f"score must be one of {', '.join(get_args(Scored))}, got {score!r}")
        for option, value in (("max_train_rows", max_train_rows), ("max_validation_rows", max_validation_rows)):
            check_at_least(option, value, 1)
        check_at_least("seed", seed, 0)
        self.num_keys = num_symbols // 2
        self.num_pairs = length // 2
        self.score = score
        self.seed = seed
        self.num_rows = (max_train_rows, max_validation_rows)
        self.vocab_size = num_symbols + 1
        self.max_length = length + QUESTION

    def check(self) -> None:
        """Nothing is left to refuse."""

    def load(self) -> TaskData:
        """Draw the rows: a fraction of a second at the default sizes, so none are kept on disk."""
        train, validation = self.num_rows
        return generated_data(
            self,
            f"drawn with seed {self.seed}",
            TokenRows(draw_table(train, (self.seed, TRAIN), self._train)),
            {"validation": TokenRows(draw_table(validation, (self.seed, VALIDATION), self._answers))},
        )

    def encoder(self, processor: Any, max_length: int) -> "Encoder":
        """Passes tokens on as they are: there is nothing for a processor to do.

        Raises:
            ValueError: if rows are longer than `max_length`.
        """
        # Slow to import, and only needed here.
        from mimicry.data.token_batches import TokenEncoder

        keys = [f"k{index}" for index in range(self.num_keys)]
        values = [f"v{index}" for index in range(self.num_keys)]
        return TokenEncoder((*keys, *values, "?"), max_length)

    def _tokens(self, draws: Draws, rows: int) -> Integers:
        """(rows, length + 3): pairs, marker, key, value."""
        # Values are independent of one another: two keys may share one.
        value_of = draws.integers(self.num_keys, rows, self.num_keys) + self.num_keys
        keys = draws.integers(self.num_keys, rows, self.num_pairs)
        each = np.arange(rows)[:, None]
        occurs = np.zeros((rows, self.num_keys), dtype=bool)
        occurs[each, keys] = True
        # Of the keys that occur, each is as likely, however often it does.
        rank = occurs.cumsum(axis=1)
        asked = (rank == 1 + draws.integers(rank[:, -1], rows)[:, None]).argmax(axis=1)[:, None]
        marker = np.full((rows, 1), 2 * self.num_keys)
        pairs = np.stack([keys, value_of[each, keys]], axis=2).reshape(rows, -1)
        return np.concatenate([pairs, marker, asked, value_of[each, asked]], axis=1)

    def _train(self, draws: Draws, rows: int) -> tuple[Integers, Integers]:
        """Tokens and labels of training rows."""
        if self.score == "answer":
            return self._answers(draws, rows)
        tokens = self._tokens(draws, rows)
        return tokens, tokens

    def _answers(self, draws: Draws, rows: int) -> tuple[Integers, Integers]:
        """Tokens, and labels at the last of them alone."""
        tokens = self._tokens(draws, rows)
        labels = np.full_like(tokens, IGNORED)
        labels[:, -1] = tokens[:, -1]
        return tokens, labels
