"""What a ListOps row says: its tokens, and the value that its brackets evaluate to."""

from statistics import median

import numpy as np

OPERATORS = ("[MIN", "[MAX", "[MED", "[SM")
CLOSE = "]"
# A token is stored as its position here: a digit as itself.
TOKENS = (*(str(digit) for digit in range(10)), *OPERATORS, CLOSE)
FIRST_OPERATOR = TOKENS.index(OPERATORS[0])
CLOSE_SYMBOL = TOKENS.index(CLOSE)
SYMBOLS = {token: symbol for symbol, token in enumerate(TOKENS)}
# The release writes trees as nested pairs in parentheses, which say nothing that the square brackets do not say.
PARENTHESES = str.maketrans("", "", "()")
SUM_MODULUS = 10
# Applied to the arguments of an operator, in the order of `OPERATORS`; a median of 4.5 counts as 4.
OPERATIONS = (min, max, lambda values: int(median(values)), lambda values: sum(values) % SUM_MODULUS)


def read_source(source: str) -> bytes:
    """The tokens of a row as LRA reads them: parentheses dropped, split at spaces; square brackets are kept.

    Raises:
        ValueError: if a token is unknown.
    """
    tokens = source.translate(PARENTHESES).split()
    try:
        return bytes([SYMBOLS[token] for token in tokens])
    except KeyError as error:
        raise ValueError(f"token must be one of {' '.join(TOKENS)}, got {error.args[0]!r}") from None


def evaluate(symbols: bytes) -> int:
    """The value of one expression, from 0 to 9.

    Raises:
        ValueError: if the tokens are not one whole expression: an operator without arguments, a bracket that is not
            closed or not opened, or more than one expression.
    """
    # Arguments of the operators that are still open; the outermost list takes the result.
    arguments: list[list[int]] = [[]]
    operators: list[int] = []
    for position, symbol in enumerate(symbols):
        if symbol < FIRST_OPERATOR:
            arguments[-1].append(symbol)
        elif symbol < CLOSE_SYMBOL:
            operators.append(symbol - FIRST_OPERATOR)
            arguments.append([])
        else:
            if not operators or not arguments[-1]:
                problem = "closes an operator without arguments" if operators else "closes nothing"
                raise ValueError(f"every ] must close an operator with arguments, but token {position} {problem}")
            values = arguments.pop()
            arguments[-1].append(OPERATIONS[operators.pop()](values))
    if operators or len(arguments[0]) != 1:
        problem = f"{len(operators)} open operators" if operators else f"{len(arguments[0])} expressions"
        raise ValueError(f"row must be one closed expression, got {problem}")
    return arguments[0][0]


def apply_operators(operators: np.ndarray, values: np.ndarray, starts: np.ndarray) -> np.ndarray:
    """`evaluate` of many operators at once, each over a slice of `values`.

    Args:
        operators: positions in `OPERATORS`, of shape (operators,).
        values: arguments of all of them, one operator's after another's.
        starts: where the arguments of each begin in `values`, increasing.
    """
    if not len(operators):
        return values[:0]
    counts = np.diff(starts, append=len(values))
    owners = np.repeat(np.arange(len(starts)), counts)
    ordered = values[np.lexsort((values, owners))]
    medians = (ordered[starts + (counts - 1) // 2] + ordered[starts + counts // 2]) // 2
    results = (ordered[starts], ordered[starts + counts - 1], medians, np.add.reduceat(values, starts) % SUM_MODULUS)
    return np.choose(operators, results)
