"""SAMSum: chats and their summaries, the paper's task for Llama-2."""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mimicry.data.hub import check_column, load_splits, origin
from mimicry.data.language_files import find_files
from mimicry.data.lines import read_lines
from mimicry.data.task import RowLimits, TaskData, build_task_data

if TYPE_CHECKING:
    from mimicry.data.batches import Encoder

STEMS = {"train": ("train",), "validation": ("val", "validation", "dev"), "test": ("test",)}
SUFFIXES = (".jsonl", ".jsonl.gz")
COLUMNS = ("dialogue", "summary")


@dataclass(frozen=True)
class Dialogue:
    """A chat, one turn a line, and a summary of it."""

    dialogue: str
    summary: str


class Samsum:
    """16,000 chats with summaries, scored by perplexity of the summary and by ROUGE of a generated one.

    Args:
        prompt: the text before a summary, with `{dialogue}` once where the chat goes.
        summary_tokens: of a summary at most, its end of text included, in training and when one is generated.
        scored: the split to score on: validation or test.
        hub: data set on the hub, or a local folder in the hub's layout; read only when `root` is null.
        root: folder with train, val and test .jsonl files, plain or gzipped: a JSON object a line.
        max_train_rows: keep this many evenly drawn rows; null keeps all.
        max_validation_rows: keep this many evenly drawn rows; null keeps all.

    Raises:
        ValueError: if the prompt has not one place for the chat, the split is unknown, or a limit is out of range.

    Source: Gliwa et al. 2019, arXiv 1911.12237. The paper does not tell its prompt.
    """

    name = "samsum"
    modality = "language"
    num_labels = 0
    metrics = ("nll_token", "nll_word", "rouge1", "rouge2", "rougeL")

    def __init__(
        self,
        prompt: str,
        summary_tokens: int,
        scored: str = "validation",
        hub: str = "knkarthick/samsum",
        root: str | None = None,
        max_train_rows: int | None = None,
        max_validation_rows: int | None = None,
    ) -> None:
        if prompt.count("{dialogue}") != 1:
            raise ValueError(f"prompt must hold {{dialogue}} once, got {prompt!r}")
        if summary_tokens < 2:
            raise ValueError(f"summary_tokens must be >= 2, got {summary_tokens}")
        if scored not in ("validation", "test"):
            raise ValueError(f"scored must be validation or test, got {scored!r}")
        self.prompt = prompt
        self.summary_tokens = summary_tokens
        self.scored = scored
        self.hub = hub
        self.root = None if root is None else Path(root).expanduser()
        self.limits = RowLimits(max_train_rows, max_validation_rows)

    def check(self) -> None:
        """Reads local files, which is fast; the hub is not asked.

        Raises:
            ValueError: if a local file is missing or has a bad row.
        """
        if self.root is not None:
            self._load_files(self.root)

    def load(self) -> TaskData:
        """Read both splits.

        Raises:
            ValueError: if a file is missing, the hub has no such data set, or a row is bad.
            ConnectionError: if the hub cannot be reached.
        """
        return self._load_hub() if self.root is None else self._load_files(self.root)

    def encoder(self, processor: Any, max_length: int) -> "Encoder":
        """Prompts with summaries to predict."""
        # Slow to import, and only needed here.
        from mimicry.data.summaries import SummaryEncoder

        return SummaryEncoder(processor, max_length, self.prompt, self.summary_tokens)

    def _load_files(self, root: Path) -> TaskData:
        stems = {split: STEMS[split] for split in ("train", self.scored)}
        files = find_files(root, stems, SUFFIXES, {})
        sources = {split: f"{path.parent.name}/{path.name}" for split, path in files.items()}
        return self._build({split: read_dialogues(path) for split, path in files.items()}, sources)

    def _load_hub(self) -> TaskData:
        splits = ("train", self.scored)
        tables = load_splits(self.hub, None, splits, "SAMSum", "train, val and test .jsonl files")
        sources = {split: origin(self.hub, split) for split in splits}
        rows = {}
        for split, table in tables.items():
            for column in COLUMNS:
                check_column(table.column_names, column, sources[split])
            rows[split] = [_parse(row, f"{sources[split]} row {index}") for index, row in enumerate(table)]
        return self._build(rows, sources)

    def _build(self, rows: dict[str, list[Dialogue | None]], sources: dict[str, str]) -> TaskData:
        dropped = {split: sum(row is None for row in parsed) for split, parsed in rows.items()}
        kept = {split: [row for row in parsed if row is not None] for split, parsed in rows.items()}
        missing = tuple(f"{split} ({count} rows without a dialogue)" for split, count in dropped.items() if count)
        return build_task_data(self, self.limits, kept.pop("train"), kept, sources, missing=missing)


def read_dialogues(path: Path) -> list[Dialogue | None]:
    """Rows of a file with a JSON object in each line; None where there is no chat to sum up.

    Raises:
        ValueError: if the file is unreadable, or a line holds no JSON object with both texts; it names file and line.
    """
    rows = []
    for place, line in read_lines(path):
        try:
            row = json.loads(line.rstrip("\r\n"))
        except json.JSONDecodeError as error:
            shown = f"{line.strip()[:40]!r} ({error.msg})"
            raise ValueError(f"{place}: line must hold a JSON object, got {shown}") from error
        rows.append(_parse(row, place))
    return rows


def _parse(row: Any, place: str) -> Dialogue | None:
    if not isinstance(row, dict):
        raise ValueError(f"{place}: line must hold a JSON object, got {type(row).__name__}")
    values = {column: row.get(column) for column in COLUMNS}
    for column, value in values.items():
        if not isinstance(value, str):
            raise ValueError(f"{place}: {column} must be a text, got {value!r}")
    # The release has a row whose chat is empty.
    if not values["dialogue"].strip():
        return None
    if not values["summary"].strip():
        raise ValueError(f"{place}: summary must not be empty, got {values['summary']!r}")
    return Dialogue(values["dialogue"].replace("\r\n", "\n").strip(), values["summary"].strip())
