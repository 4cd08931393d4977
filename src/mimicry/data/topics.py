"""The default text for language models: the reference topics that every Python carries."""

import platform
import re
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from mimicry.data.task import RowLimits, TaskData, build_task_data, check_limit

if TYPE_CHECKING:
    from mimicry.data.batches import Encoder

# Prose on the execution model, expressions and simple statements, by name so that it does not depend on the Python.
HELD_OUT = frozenset({"binary", "comparisons", "del", "execmodel", "import", "raise", "return", "subscriptions"})
# Shorter paragraphs may be alike by chance; two topics that share a longer one repeat each other.
MIN_PARAGRAPH = 80


class Topics:
    """Pages of the Python language reference, about 375,000 characters after repetitions are left out.

    The split is fixed: the topics in `HELD_OUT`, about a tenth of the text, are scored on, all others trained on.
    Many pages repeat parts of others, as "for" repeats a section of "compound": a page whose every paragraph stands
    in a longer one is left out, and so is a page to train on that shares a paragraph with one to score on.

    The text differs a little between Python versions, so compare scores from the same one; `sources` name it.

    Args:
        max_train_rows: keep this many evenly drawn topics; null keeps all.
        max_validation_rows: keep this many evenly drawn topics; null keeps all.
        stride: score so many tokens of each block, >= 1, after the others as context; null scores all but the first,
            which is quicker, and counts against a model what it could not know at the beginning of a block.

    Raises:
        ValueError: if a limit or the stride is below 1.

    Source: the module pydoc_data.topics of the running Python.
    """

    name = "topics"
    modality = "language"
    num_labels = 0
    metrics = ("nll_token", "nll_word")

    def __init__(
        self, max_train_rows: int | None = None, max_validation_rows: int | None = None, stride: int | None = None
    ) -> None:
        self.limits = RowLimits(max_train_rows, max_validation_rows)
        check_limit("stride", stride)
        self.stride = stride

    def check(self) -> None:
        """Nothing is left to refuse."""

    def load(self) -> TaskData:
        """Read the topics of the running Python, and split them."""
        # Half a megabyte of text that nothing else needs.
        from pydoc_data.topics import topics

        train, held_out = split_topics(topics)
        source = f"pydoc_data.topics of Python {platform.python_version()}"
        sources = dict.fromkeys(("train", "validation"), source)
        return build_task_data(self, self.limits, train, {"validation": held_out}, sources)

    def encoder(self, processor: Any, max_length: int) -> "Encoder":
        """Joins topics and cuts them into blocks."""
        # Slow to import, and only needed here.
        from mimicry.data.language import LanguageEncoder

        return LanguageEncoder(processor, max_length)

    def scoring_encoder(self, processor: Any, max_length: int) -> "Encoder":
        """The same for what is scored, with `stride` tokens of each block."""
        from mimicry.data.language import LanguageEncoder

        return LanguageEncoder(processor, max_length, stride=self.stride)


def split_topics(topics: Mapping[str, str]) -> tuple[list[str], list[str]]:
    """Texts to train on and texts to score on, each in the order of their names, without repetitions.

    Args:
        topics: text by name.
    """
    paragraphs = {name: _paragraphs(text) for name, text in topics.items()}
    seen: set[str] = set()
    kept = set()
    for name in sorted(topics, key=lambda name: (-len(topics[name]), name)):
        if not paragraphs[name] or not paragraphs[name] <= seen:
            kept.add(name)
        seen |= paragraphs[name]
    held_out = kept & HELD_OUT
    scored = set().union(*(paragraphs[name] for name in held_out))
    train = {name for name in kept - held_out if not paragraphs[name] & scored}
    return [topics[name] for name in sorted(train)], [topics[name] for name in sorted(held_out)]


def _paragraphs(text: str) -> set[str]:
    """The longer paragraphs, however their lines are broken and indented."""
    paragraphs = (" ".join(paragraph.split()) for paragraph in re.split(r"\n\s*\n", text))
    return {paragraph for paragraph in paragraphs if len(paragraph) >= MIN_PARAGRAPH}
