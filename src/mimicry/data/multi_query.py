"""Multi-query associative recall: several keys are asked for, at many distances from where they stood."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from mimicry.data.draws import Draws, Integers
from mimicry.data.generated import TRAIN, VALIDATION, check_at_least, check_even, generated_data
from mimicry.data.task import TaskData
from mimicry.data.token_rows import IGNORED, TokenRows, draw_table

if TYPE_CHECKING:
    from mimicry.data.batches import Encoder

# Tokens that a pair and its query take at least: key and value, key and a place for the answer.
TOKENS_PER_PAIR = 4


class MultiQueryRecall:
    """Pairs of keys and values, then each key once more among random tokens: after it, the model must say its value.

    Half of the symbols are keys, half are values, and a sequence repeats neither. Behind the pairs every second
    position may hold a query; the slot of each key is drawn in proportion to slot^(gap_power - 1), slots counted from
    1. The answers are labels only: what follows a query is a random token as everywhere else. The same
    options give the same rows on every machine, and fewer rows are the first ones of more.

    Args:
        num_symbols: keys and values together, even, >= 4.
        settings: [length, pairs] of the sequences to train on; lengths are even, a pair needs 4 tokens of it.
        test_settings: the same of those to score on, a split for each; null takes those of training.
        gap_power: > 0; at 1 all slots are as likely, near 0 most queries follow the pairs closely.
        seed: draws the rows, >= 0; apart from a run's own seed, so that all runs share them.
        max_train_rows: sequences of each setting to train on, >= 1.
        max_validation_rows: sequences of each setting to score on, >= 1.

    Attributes:
        vocab_size: token ids of all rows are below it: keys, then values.
        max_length: tokens of the longest row.

    Raises:
        ValueError: if an option is out of its range, or a setting asks for more pairs than keys or length allow.

    Source: arXiv 2312.04927, Sec. 4 and App. E. Deviation: token 0 is a key as any other, where the original spares it.
    """

    name = "mqar"
    modality = "tokens"
    num_labels = 0
    metrics: tuple[str, ...] = ("accuracy",)

    def __init__(
        self,
        num_symbols: int = 8192,
        settings: Sequence[Sequence[int]] = ((64, 4),),
        test_settings: Sequence[Sequence[int]] | None = None,
        gap_power: float = 0.01,
        seed: int = 0,
        max_train_rows: int = 100_000,
        max_validation_rows: int = 3_000,
    ) -> None:
        check_even("num_symbols", num_symbols, 4)
        if not gap_power > 0:
            raise ValueError(f"gap_power must be > 0, got {gap_power}")
        for option, value in (("max_train_rows", max_train_rows), ("max_validation_rows", max_validation_rows)):
            check_at_least(option, value, 1)
        check_at_least("seed", seed, 0)
        self.vocab_size = num_symbols
        self.settings = self._checked("settings", settings)
        self.test_settings = self.settings if test_settings is None else self._checked("test_settings", test_settings)
        self.gap_power = gap_power
        self.seed = seed
        self.num_rows = (max_train_rows, max_validation_rows)
        self.max_length = max(length for length, _ in (*self.settings, *self.test_settings))

    def check(self) -> None:
        """Nothing is left to refuse."""

    def load(self) -> TaskData:
        """Draw the rows: seconds for 100,000 of 512 tokens, so none are kept on disk."""
        train, validation = self.num_rows
        tests = [TokenRows(self._table(validation, VALIDATION, *setting)) for setting in self.test_settings]
        names = ["validation", *(f"validation_{length}_{pairs}" for length, pairs in self.test_settings[1:])]
        return generated_data(
            self,
            f"drawn with seed {self.seed}",
            TokenRows(*(self._table(train, TRAIN, *setting) for setting in self.settings)),
            dict(zip(names, tests, strict=True)),
        )

    def encoder(self, processor: Any, max_length: int) -> "Encoder":
        """Passes tokens on as they are: there is nothing for a processor to do.

        Raises:
            ValueError: if rows are longer than `max_length`.
        """
        # Slow to import, and only needed here.
        from mimicry.data.token_batches import TokenEncoder

        half = range(self.vocab_size // 2)
        return TokenEncoder((*(f"k{index}" for index in half), *(f"v{index}" for index in half)), max_length)

    def _checked(self, option: str, settings: Sequence[Sequence[int]]) -> tuple[tuple[int, int], ...]:
        keys = self.vocab_size // 2
        settings = [list(setting) for setting in settings]
        if not settings or len(set(map(tuple, settings))) != len(settings):
            raise ValueError(f"{option} must be a list of different [length, pairs], got {settings}")
        for setting in settings:
            if len(setting) != 2 or setting[1] < 1:
                raise ValueError(f"{option} must hold [length, pairs] with at least 1 pair, got {setting}")
            length, pairs = setting
            if pairs > keys:
                raise ValueError(f"{option} must have at most as many pairs as keys ({keys}), got {setting}")
            if length % 2 or length < TOKENS_PER_PAIR * pairs:
                raise ValueError(f"{option} must have an even length >= {TOKENS_PER_PAIR} per pair, got {setting}")
        return tuple((length, pairs) for length, pairs in settings)

    def _table(self, rows: int, stream: int, length: int, pairs: int) -> Any:
        seeds = (self.seed, stream, length, pairs)
        return draw_table(rows, seeds, lambda draws, count: self._draw(draws, count, length, pairs))

    def _draw(self, draws: Draws, rows: int, length: int, pairs: int) -> tuple[Integers, Integers]:
        """Tokens and labels of rows of one setting."""
        half = self.vocab_size // 2
        keys = draws.distinct(half, rows, pairs)
        values = half + draws.distinct(half, rows, pairs)
        slots = np.arange(1, length // 2 - pairs + 1, dtype=np.float64)
        queries = 2 * (pairs + draws.weighted_distinct(slots ** (self.gap_power - 1), rows, pairs))
        tokens = draws.integers(self.vocab_size, rows, length)
        tokens[:, : 2 * pairs] = np.stack([keys, values], axis=2).reshape(rows, -1)
        np.put_along_axis(tokens, queries, keys, axis=1)
        labels = np.full_like(tokens, IGNORED)
        np.put_along_axis(labels, queries + 1, values, axis=1)
        return tokens, labels
