"""GLUE tasks, from the files of the GLUE release or from the hub."""

import logging
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mimicry.data.glue_specs import GLUE_SPECS
from mimicry.data.hub import check_column, load_splits, origin
from mimicry.data.task import Example, RowLimits, TaskData, build_task_data
from mimicry.data.tsv import read_tsv

if TYPE_CHECKING:
    from mimicry.data.batches import Encoder

log = logging.getLogger(__name__)

SUFFIXES = (".tsv", ".tsv.gz")


class GlueTask:
    """One of the eight GLUE tasks of the paper, scored on its validation rows (MNLI: the matched, then the mismatched).

    Args:
        name: cola, sst2, mrpc, stsb, qqp, mnli, qnli or rte.
        hub: data set on the hub, or a local folder in the hub's layout; read only when `root` is null.
        root: folder that holds the GLUE release's folders CoLA, SST-2, ...; null reads from the hub.
        train_file: file name in the task's folder instead of train.tsv or train.tsv.gz.
        validation_file: file name in the task's folder instead of dev.tsv or dev.tsv.gz (MNLI: dev_matched).
        max_train_rows: keep this many evenly drawn rows; null keeps all.
        max_validation_rows: keep this many evenly drawn rows of each validation split; null keeps all.

    Raises:
        ValueError: if the name is unknown, a file is named without `root`, or a limit is below 1.
    """

    modality = "text"

    def __init__(
        self,
        name: str,
        hub: str = "nyu-mll/glue",
        root: str | None = None,
        train_file: str | None = None,
        validation_file: str | None = None,
        max_train_rows: int | None = None,
        max_validation_rows: int | None = None,
    ) -> None:
        if name not in GLUE_SPECS:
            raise ValueError(f"name must be one of {', '.join(GLUE_SPECS)}, got {name!r}")
        files = {"train_file": train_file, "validation_file": validation_file}
        for option, file in files.items():
            if file is not None and root is None:
                raise ValueError(f"{option} needs root, the folder that holds the GLUE folders, got {file!r} alone")
        self.spec = GLUE_SPECS[name]
        self.name = name
        self.num_labels = self.spec.num_labels
        self.metrics = self.spec.metrics
        self.hub = hub
        self.root = None if root is None else Path(root).expanduser()
        self.files = files
        self.limits = RowLimits(max_train_rows, max_validation_rows)

    def check(self) -> None:
        """Read local files, which is fast; the hub is not asked.

        Raises:
            ValueError: if a local file is missing or has a bad row.
        """
        if self.root is not None:
            self._load_files(self.root)

    def load(self) -> TaskData:
        """Read every split; what a folder lacks of the task is named in the log and in the result.

        Raises:
            ValueError: if a file is missing, the hub has no such data set, or a row is bad. Of MNLI's files only the
                mismatched one may be missing.
            ConnectionError: if the hub cannot be reached.
        """
        data = self._load_hub() if self.root is None else self._load_files(self.root)
        for part in data.missing:
            log.warning("%s is incomplete, it lacks %s", self.name, part)
        return data

    def encoder(self, processor: Any, max_length: int) -> "Encoder":
        """Tokenises sentences or pairs of them."""
        # Slow to import, and only needed here.
        from mimicry.data.text import TextEncoder

        return TextEncoder(processor, max_length)

    def _load_files(self, root: Path) -> TaskData:
        folder = root / self.spec.folder
        if not folder.is_dir():
            raise ValueError(f"root must hold the folder {self.spec.folder}, got {root} without it")
        (primary, stem), *others = self.spec.validation.items()
        files = {
            "train": self._find_file(folder, "train_file", "train"),
            primary: self._find_file(folder, "validation_file", stem),
        }
        missing = []
        if _first_file(folder, _defaults(stem)) is None:
            missing.append(f"{stem} (scored on {self.spec.folder}/{files[primary]} instead)")
        for split, stem in others:
            names = _defaults(stem)
            if found := _first_file(folder, names):
                files[split] = found
            else:
                missing.append(f"{split} (no {' or '.join(names)} in {self.spec.folder})")
        if len({*files.values()}) < len(files):
            uses = ", ".join(f"{file} for {split}" for split, file in files.items())
            raise ValueError(f"train_file and validation_file must leave each split a file of its own, got {uses}")
        sources = {split: f"{self.spec.folder}/{file}" for split, file in files.items()}
        rows = {}
        for split, file in files.items():
            rows[split], torn = self._parse_file(folder / file)
            if torn:
                missing.append(f"{split} (rows of another width than the header: {torn} in {self.spec.folder}/{file})")
        return build_task_data(
            self, self.limits, rows.pop("train"), rows, sources, self.spec.label_names, tuple(missing)
        )

    def _find_file(self, folder: Path, option: str, stem: str) -> str:
        defaults = _defaults(stem)
        names = [self.files[option]] if self.files[option] else defaults
        if name := _first_file(folder, names):
            return name
        # The other splits' own files are no candidates: training on one would leak the validation rows.
        others = {name for other in ("train", *self.spec.validation.values()) for name in _defaults(other)}
        found = sorted(path.name for path in folder.iterdir() if path.name.endswith(SUFFIXES))
        found = [name for name in found if name in defaults or name not in others]
        hint = f"found {', '.join(found)}: choose one with task.{option}=NAME" if found else "found no other file"
        raise ValueError(f"{option} must exist in {folder}, got no {' or '.join(names)}; {hint}")

    def _parse_file(self, path: Path) -> tuple[list[Example], int]:
        """The rows that can be read, and how many others were left out."""
        spec = self.spec
        wanted = [column for column in (spec.text, spec.pair, spec.label) if column is not None]
        torn: list[str] = []
        examples = [
            Example(row[spec.text], row[spec.pair] if spec.pair else None, spec.parse_label(row[spec.label], place))
            for place, row in read_tsv(path, wanted, spec.columns, torn if spec.has_torn_rows else None)
        ]
        return examples, len(torn)

    def _load_hub(self) -> TaskData:
        splits = ["train", *self.spec.validation]
        tables = load_splits(self.hub, self.name, splits, self.name, "GLUE files")
        sources = {split: origin(self.hub, split) for split in splits}
        rows = {split: self._parse_columns(table.to_dict(), sources[split]) for split, table in tables.items()}
        return build_task_data(self, self.limits, rows.pop("train"), rows, sources, self.spec.label_names)

    def _parse_columns(self, columns: dict[str, list[object]], source: str) -> list[Example]:
        text, pair = self.spec.hub_columns or (self.spec.text, self.spec.pair)
        wanted = [column for column in (text, pair, "label") if column is not None]
        for column in wanted:
            check_column(list(columns), column, source)
        pairs = columns[pair] if pair else [None] * len(columns[text])
        return [
            Example(first, second, self.spec.check_class_id(label, f"{source} row {index}"))
            for index, (first, second, label) in enumerate(zip(columns[text], pairs, columns["label"], strict=True))
        ]


def _defaults(stem: str) -> list[str]:
    return [stem + suffix for suffix in SUFFIXES]


def _first_file(folder: Path, names: Sequence[str]) -> str | None:
    return next((name for name in names if (folder / name).is_file()), None)
