"""GLUE tasks, from the files of the GLUE release or from the hub."""

from pathlib import Path

from mimicry.data.glue_specs import GLUE_SPECS, MAX_SCORE
from mimicry.data.task import Example, RowLimits, TaskData, build_task_data
from mimicry.data.tsv import read_tsv

SUFFIXES = (".tsv", ".tsv.gz")


class GlueTask:
    """One of the eight GLUE tasks of the paper, scored on its validation rows (MNLI: the matched ones).

    Args:
        name: cola, sst2, mrpc, stsb, qqp, mnli, qnli or rte.
        hub: data set on the hub, or a local folder in the hub's layout; read only when `root` is null.
        root: folder that holds the GLUE release's folders CoLA, SST-2, ...; null reads from the hub.
        train_file: file name in the task's folder instead of train.tsv or train.tsv.gz.
        validation_file: file name in the task's folder instead of dev.tsv or dev.tsv.gz (MNLI: dev_matched).
        max_train_rows: keep this many evenly drawn rows; null keeps all.
        max_validation_rows: keep this many evenly drawn rows; null keeps all.

    Raises:
        ValueError: if the name is unknown, a file is named without `root`, or a limit is below 1.
    """

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
        """Read both splits.

        Raises:
            ValueError: if a file is missing, the hub has no such data set, or a row is bad.
            ConnectionError: if the hub cannot be reached.
        """
        return self._load_hub() if self.root is None else self._load_files(self.root)

    def _load_files(self, root: Path) -> TaskData:
        train = self._find_file(root, "train_file", "train")
        validation = self._find_file(root, "validation_file", self.spec.validation)
        if train == validation:
            raise ValueError(f"validation_file must differ from train_file, got {validation!r} for both")
        sources = {"train": f"{self.spec.folder}/{train}", "validation": f"{self.spec.folder}/{validation}"}
        rows = (self._parse_file(root / source) for source in sources.values())
        return build_task_data(self, self.limits, *rows, sources=sources)

    def _find_file(self, root: Path, option: str, stem: str) -> str:
        folder = root / self.spec.folder
        if not folder.is_dir():
            raise ValueError(f"root must hold the folder {self.spec.folder}, got {root} without it")
        defaults = [stem + suffix for suffix in SUFFIXES]
        names = [self.files[option]] if self.files[option] else defaults
        for name in names:
            if (folder / name).is_file():
                return name
        # The other split's own file is no candidate: training on it would leak the validation rows.
        others = {other + suffix for other in ("train", self.spec.validation) for suffix in SUFFIXES} - set(defaults)
        found = sorted(path.name for path in folder.iterdir() if path.name.endswith(SUFFIXES))
        found = [name for name in found if name not in others]
        hint = f"found {', '.join(found)}: choose one with task.{option}=NAME" if found else "found no other file"
        raise ValueError(f"{option} must exist in {folder}, got no {' or '.join(names)}; {hint}")

    def _parse_file(self, path: Path) -> list[Example]:
        spec = self.spec
        wanted = [column for column in (spec.text, spec.pair, spec.label) if column is not None]
        return [
            Example(row[spec.text], row[spec.pair] if spec.pair else None, self._parse_label(row[spec.label], place))
            for place, row in read_tsv(path, wanted, spec.columns)
        ]

    def _parse_label(self, value: str, place: str) -> int | float:
        if not self.spec.labels:
            return _parse_score(value, place)
        if value not in self.spec.labels:
            raise ValueError(f"{place}: label must be one of {', '.join(self.spec.labels)}, got {value!r}")
        return self.spec.labels.index(value)

    def _load_hub(self) -> TaskData:
        # Slow to import, and only needed here.
        import datasets

        splits = ["train", self.spec.hub_validation]
        failure = f"cannot read {self.name} of the data set {self.hub!r}"
        remedy = "set task.root=DIR to read local GLUE files"
        try:
            train, validation = datasets.load_dataset(self.hub, self.name, split=splits)
        except (FileNotFoundError, ValueError, datasets.exceptions.DatasetsError) as error:
            raise ValueError(f"{failure}: {_one_line(error)}; {remedy}") from error
        except OSError as error:
            raise ConnectionError(f"{failure}: {_one_line(error)}; {remedy}") from error
        # The name of a local copy is enough: where it lies differs between machines.
        origin = Path(self.hub).resolve().name if Path(self.hub).is_dir() else self.hub
        sources = {"train": f"{origin}@{splits[0]}", "validation": f"{origin}@{splits[1]}"}
        rows = (
            self._parse_columns(split.to_dict(), source)
            for split, source in zip((train, validation), sources.values(), strict=True)
        )
        return build_task_data(self, self.limits, *rows, sources=sources)

    def _parse_columns(self, columns: dict[str, list[object]], source: str) -> list[Example]:
        text, pair = self.spec.hub_columns or (self.spec.text, self.spec.pair)
        wanted = [column for column in (text, pair, "label") if column is not None]
        for column in wanted:
            if column not in columns:
                raise ValueError(f"{source} must have the column {column!r}, got {', '.join(columns)}")
        pairs = columns[pair] if pair else [None] * len(columns[text])
        return [
            Example(first, second, self._check_label(label, f"{source} row {index}"))
            for index, (first, second, label) in enumerate(zip(columns[text], pairs, columns["label"], strict=True))
        ]

    def _check_label(self, label: int | float | None, place: str) -> int | float:
        if not self.spec.labels:
            return _parse_score(label, place)
        # The hub marks withheld labels by -1.
        if label not in range(self.num_labels):
            ids = ", ".join(map(str, range(self.num_labels)))
            raise ValueError(f"{place}: label must be one of {ids}, got {label}")
        return int(label)


def _parse_score(value: str | float | None, place: str) -> float:
    try:
        score = float(value)
    except (TypeError, ValueError):
        score = float("nan")
    if not 0 <= score <= MAX_SCORE:
        raise ValueError(f"{place}: label must be a number from 0 to {MAX_SCORE:g}, got {value!r}")
    return score


def _one_line(error: Exception) -> str:
    return " ".join(str(error).split())
