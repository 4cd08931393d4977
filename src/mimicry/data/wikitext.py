"""WikiText: articles of the English Wikipedia, from the files of the release or from the hub."""

import re
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mimicry.data.hub import check_column, load_splits, origin
from mimicry.data.language_files import find_files
from mimicry.data.lines import read_lines
from mimicry.data.task import RowLimits, TaskData, build_task_data, check_limit

if TYPE_CHECKING:
    from mimicry.data.batches import Encoder

# What the hub calls the versions whose rare words were left in.
CONFIGS = {"wikitext2": "wikitext-2-raw-v1", "wikitext103": "wikitext-103-raw-v1"}
STEMS = {"train": ("wiki.train",), "validation": ("wiki.valid",)}
SUFFIXES = (".raw", ".raw.gz", ".tokens", ".tokens.gz")
# The title of an article, if it follows a blank line; headings inside it have more equals signs on each side.
TITLE = re.compile(r" = [^=].* = \n")


class WikiText:
    """WikiText-2 or WikiText-103: the paper's text for GPT-2, scored on its validation articles.

    Articles are pieces of one running text: nothing is put between them, as is usual for this corpus, and a token may
    be predicted from the article before. The text is read as it is, with the spaces that its tokenisation left;
    only line ends of Windows become those of the release.

    Args:
        name: wikitext2 or wikitext103.
        hub: data set on the hub, or a local folder in the hub's layout; read only when `root` is null.
        root: folder with wiki.train and wiki.valid, each .raw or .tokens (rare words are `<unk>`), plain or gzipped.
        train_file: file to train on instead, relative to `root` or absolute.
        validation_file: file to score on instead.
        max_train_rows: keep this many evenly drawn articles; null keeps all.
        max_validation_rows: keep this many evenly drawn articles; null keeps all.
        stride: score so many tokens of each block, >= 1, after the others as context; null scores all but the first,
            which is quicker, and counts against a model what it could not know at the beginning of a block.

    Raises:
        ValueError: if the name is unknown, a file is named without `root`, or a limit or the stride is below 1.

    Source: Merity et al. 2016, arXiv 1609.07843.
    """

    modality = "language"
    num_labels = 0
    metrics = ("nll_token", "nll_word")

    def __init__(
        self,
        name: str,
        hub: str = "Salesforce/wikitext",
        root: str | None = None,
        train_file: str | None = None,
        validation_file: str | None = None,
        max_train_rows: int | None = None,
        max_validation_rows: int | None = None,
        stride: int | None = None,
    ) -> None:
        if name not in CONFIGS:
            raise ValueError(f"name must be one of {', '.join(CONFIGS)}, got {name!r}")
        self.files = {"train": train_file, "validation": validation_file}
        for split, file in self.files.items():
            if file is not None and root is None:
                raise ValueError(f"{split}_file needs root, the folder that holds it, got {file!r} alone")
        self.name = name
        self.hub = hub
        self.root = None if root is None else Path(root).expanduser()
        self.limits = RowLimits(max_train_rows, max_validation_rows)
        check_limit("stride", stride)
        self.stride = stride

    def check(self) -> None:
        """Looks for local files, and at the beginning of each; the hub is not asked.

        Raises:
            ValueError: if a file is missing, empty or not readable.
        """
        if self.root is not None:
            for split, path in find_files(self.root, STEMS, SUFFIXES, self.files).items():
                if next(read_lines(path), None) is None:
                    raise ValueError(f"{split} split of {self.name} must not be empty, got {path} without a line")

    def load(self) -> TaskData:
        """Read both splits and cut them into articles.

        Raises:
            ValueError: if a file is missing, empty or not readable, or the hub has no such data set.
            ConnectionError: if the hub cannot be reached.
        """
        if self.root is None:
            sources, articles = self._load_hub()
        else:
            files = find_files(self.root, STEMS, SUFFIXES, self.files)
            sources = {split: f"{path.parent.name}/{path.name}" for split, path in files.items()}
            articles = {split: split_articles(line for _, line in read_lines(path)) for split, path in files.items()}
        missing = tuple(f"{split} (read from {sources[split]} instead)" for split, file in self.files.items() if file)
        return build_task_data(self, self.limits, articles.pop("train"), articles, sources, missing=missing)

    def _load_hub(self) -> tuple[dict[str, str], dict[str, list[str]]]:
        config = CONFIGS[self.name]
        tables = load_splits(self.hub, config, tuple(STEMS), config, "wiki.train and wiki.valid files")
        sources = {split: origin(self.hub, split) for split in STEMS}
        for split, table in tables.items():
            check_column(table.column_names, "text", sources[split])
        # The hub empties the blank lines, which are " \n" in the release.
        return sources, {
            split: split_articles(line or " \n" for line in table["text"]) for split, table in tables.items()
        }

    def encoder(self, processor: Any, max_length: int) -> "Encoder":
        """Joins articles without anything between them and cuts them into blocks."""
        # Slow to import, and only needed here.
        from mimicry.data.language import LanguageEncoder

        return LanguageEncoder(processor, max_length, separated=False)

    def scoring_encoder(self, processor: Any, max_length: int) -> "Encoder":
        """The same for what is scored, with `stride` tokens of each block."""
        from mimicry.data.language import LanguageEncoder

        return LanguageEncoder(processor, max_length, separated=False, stride=self.stride)


def split_articles(lines: Iterable[str]) -> list[str]:
    """Articles whose concatenation is the text; each but perhaps the first begins with its title.

    Args:
        lines: with their line ends, of which those of Windows become plain newlines; blank ones before the first title
            belong to its article.

    Returns:
        The articles; none if every line is blank.
    """
    articles: list[list[str]] = [[]]
    begun = blank = has_blanks = False
    for ended in lines:
        line = f"{ended[:-2]}\n" if ended.endswith("\r\n") else ended
        # In a copy without blank lines anything that looks like a title counts as one.
        if begun and TITLE.fullmatch(line) and (blank or not has_blanks):
            articles.append([])
        articles[-1].append(line)
        blank = line.isspace()
        has_blanks = has_blanks or blank
        begun = begun or not blank
    return ["".join(article) for article in articles] if begun else []
