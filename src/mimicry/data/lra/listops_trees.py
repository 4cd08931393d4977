"""Random ListOps trees, drawn many at a time, one depth after the other."""

from dataclasses import dataclass

import numpy as np

from mimicry.data.draws import Draws
from mimicry.data.lra.listops_language import CLOSE_SYMBOL, FIRST_OPERATOR, OPERATORS, apply_operators

OPERATOR_PROBABILITY = 0.25
MIN_ARGS = 2
DIGITS = 10
# Trees drawn at a time: enough to keep numpy busy, few enough to stay below some 100 MB.
BATCH = 8192
# The benchmark's rules keep one tree in 12; below this share a chunk would take hours.
MIN_SHARE = 1e-4
TRIED_BEFORE_GIVING_UP = 20 * BATCH


@dataclass(frozen=True)
class TreeRules:
    """Which trees there are, and which of them are kept; the defaults are those of the benchmark.

    Args:
        max_depth: of the deepest node, the root having depth 1; nodes at this depth are digits.
        max_args: of an operator; it has from 2 to so many, evenly drawn.
        min_length: in tokens; kept trees are longer.
        max_length: in tokens; kept trees are shorter.

    Raises:
        ValueError: if no tree can keep the rules.
    """

    max_depth: int = 10
    max_args: int = 10
    min_length: int = 500
    max_length: int = 2000

    def __post_init__(self) -> None:
        if self.max_depth < 2:
            raise ValueError(f"max_depth must be >= 2, got {self.max_depth}")
        if self.max_args < MIN_ARGS:
            raise ValueError(f"max_args must be >= {MIN_ARGS}, got {self.max_args}")
        if self.min_length < 1:
            raise ValueError(f"min_length must be >= 1, got {self.min_length}")
        if self.max_length < self.min_length + 2:
            raise ValueError(f"max_length must be >= min_length + 2 = {self.min_length + 2}, got {self.max_length}")
        longest = 1
        for _ in range(self.max_depth - 1):
            longest = 2 + self.max_args * longest
        if self.min_length >= longest:
            raise ValueError(f"min_length must be < {longest}, the longest tree, got {self.min_length}")


@dataclass(frozen=True)
class _Level:
    """All nodes of one depth, siblings side by side in the order of their parents.

    Attributes:
        trees: number of each node's tree.
        is_operator: of each node; the others are digits.
        args: of each operator; its arguments lie in the next level.
    """

    trees: np.ndarray
    is_operator: np.ndarray
    args: np.ndarray

    @property
    def starts(self) -> np.ndarray:
        """Of each operator, the position of its first argument in the next level."""
        return np.cumsum(self.args) - self.args

    def only(self, kept: np.ndarray) -> "_Level":
        """The nodes of kept trees."""
        chosen = kept[self.trees]
        return _Level(self.trees[chosen], self.is_operator[chosen], self.args[chosen[self.is_operator]])


def draw_trees(rules: TreeRules, count: int, draws: Draws) -> tuple[list[bytes], list[int]]:
    """`count` different trees as token symbols, and their values.

    Source: Tay et al. 2020 (arXiv 2011.04006) and its generator; Nangia and Bowman 2018 (arXiv 1804.06028).

    Raises:
        ValueError: if the rules leave too few trees.
    """
    found: dict[bytes, int] = {}
    tried = 0
    while len(found) < count:
        levels, lengths = _grow(rules, draws)
        tried += BATCH
        if len(lengths):
            found |= _write(levels, lengths, draws)
        if tried >= TRIED_BEFORE_GIVING_UP and len(found) < tried * MIN_SHARE:
            raise ValueError(
                f"rules must leave enough different trees, but of {tried:,} drawn only {len(found)} had "
                f"{rules.min_length} < length < {rules.max_length}"
            )
    return list(found)[:count], list(found.values())[:count]


def _grow(rules: TreeRules, draws: Draws) -> tuple[list[_Level], np.ndarray]:
    """Shapes of those of `BATCH` trees that keep the rules, from the root down, and their lengths."""
    levels = []
    lengths = np.zeros(BATCH, dtype=np.int64)
    trees = np.arange(BATCH)
    for depth in range(1, rules.max_depth + 1):
        is_operator = (draws.fractions(len(trees)) < OPERATOR_PROBABILITY) & (depth < rules.max_depth)
        args = MIN_ARGS + draws.integers(rules.max_args - MIN_ARGS + 1, int(is_operator.sum()))
        levels.append(_Level(trees, is_operator, args))
        # An operator and its bracket are two tokens, a digit is one.
        lengths += np.bincount(trees[is_operator], minlength=BATCH) + np.bincount(trees, minlength=BATCH)
        trees = np.repeat(trees[is_operator], args)
        # Those that are too long already would only cost time.
        trees = trees[lengths[trees] < rules.max_length]
    kept = (lengths > rules.min_length) & (lengths < rules.max_length)
    return [level.only(kept) for level in levels], lengths[kept]


def _write(levels: list[_Level], lengths: np.ndarray, draws: Draws) -> dict[bytes, int]:
    """Operators and digits for these shapes: token symbols and value of each tree."""
    sizes: list[np.ndarray] = []
    values: list[np.ndarray] = []
    symbols: list[np.ndarray] = []
    for level in reversed(levels):
        size = np.ones(len(level.trees), dtype=np.int64)
        value = draws.integers(DIGITS, len(level.trees))
        symbol = value.copy()
        if len(level.args):
            operators = draws.integers(len(OPERATORS), len(level.args))
            size[level.is_operator] = 2 + np.add.reduceat(sizes[-1], level.starts)
            value[level.is_operator] = apply_operators(operators, values[-1], level.starts)
            symbol[level.is_operator] = FIRST_OPERATOR + operators
        sizes.append(size)
        values.append(value)
        symbols.append(symbol)
    sizes.reverse()
    symbols.reverse()
    ends = np.cumsum(lengths)
    text = np.empty(ends[-1], dtype=np.uint8)
    places = ends - lengths
    for level, size, symbol, size_below in zip(levels, sizes, symbols, [*sizes[1:], None], strict=True):
        text[places] = symbol
        opens = places[level.is_operator]
        if size_below is None or not len(opens):
            break
        text[opens + size[level.is_operator] - 1] = CLOSE_SYMBOL
        before = np.cumsum(size_below) - size_below
        places = np.repeat(opens + 1 - before[level.starts], level.args) + before
    rows = [text[end - length : end].tobytes() for end, length in zip(ends, lengths, strict=True)]
    return dict(zip(rows, values[-1].tolist(), strict=True))
