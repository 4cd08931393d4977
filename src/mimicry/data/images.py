"""Image classification, from local folders or Parquet files or from the hub."""

from pathlib import Path
from typing import TYPE_CHECKING, Any

from mimicry.data import image_files
from mimicry.data.task import RowLimits, TaskData, draw_indices

if TYPE_CHECKING:
    from mimicry.data.batches import Encoder

VALIDATION_NAMES = ("val", "validation", "valid", "test")


def image_metrics(num_labels: int) -> tuple[str, ...]:
    """Top-1 accuracy, and top-5 where a guess could miss it."""
    return ("top1", "top5") if num_labels > 5 else ("top1",)


class ImageTask:
    """Images with one class each, scored by top-1 and top-5 accuracy on one validation split.

    Read from `root` where it is given: class folders (`train/<class>/*.jpg`, `val/<class>/*.jpg`; the sorted names
    give the ids), or `train.parquet` and `val.parquet`. Images stay on disk and are decoded batch by batch.

    Args:
        name: of the task, for records and for a teacher's known score.
        num_labels: number of classes; null counts class folders, or the names in labels.txt or labels.tsv.
        hub: data set on the hub, or a local folder in the hub's layout; read only when `root` is null.
        root: local folder; null reads from the hub.
        train: folder or Parquet file below `root`, or split on the hub, instead of `train`.
        validation: the same for scoring, instead of val, validation, valid or test (hub: validation).
        image_column: of Parquet or of the hub; null takes image, img, jpeg, ...
        label_column: of Parquet or of the hub; null takes label, ...
        max_train_rows: keep this many evenly drawn rows; null keeps all.
        max_validation_rows: keep this many evenly drawn rows; null keeps all.
        workers: processes that decode images; 0 decodes in the main process.

    Raises:
        ValueError: if a number is out of range, or a local folder has no classes to count.
    """

    modality = "image"

    def __init__(
        self,
        name: str,
        num_labels: int | None = None,
        hub: str | None = None,
        root: str | None = None,
        train: str | None = None,
        validation: str | None = None,
        image_column: str | None = None,
        label_column: str | None = None,
        max_train_rows: int | None = None,
        max_validation_rows: int | None = None,
        workers: int = 0,
    ) -> None:
        if num_labels is not None and num_labels < 2:
            raise ValueError(f"num_labels must be >= 2 or null, got {num_labels}")
        if workers < 0:
            raise ValueError(f"workers must be >= 0, got {workers}")
        self.name = name
        self.hub = hub
        self.root = None if root is None else Path(root).expanduser()
        self.splits = {"train": train, "validation": validation}
        self.columns = {"image_column": image_column, "label_column": label_column}
        self.limits = RowLimits(max_train_rows, max_validation_rows)
        self.workers = workers
        # 0 stands for a number that `check` will ask for.
        self.num_labels = len(self._local_names()) if num_labels is None else num_labels
        self.metrics = image_metrics(self.num_labels)

    def check(self) -> None:
        """Look for the local folders or files and count their classes; images and the hub are left for later.

        Raises:
            ValueError: if there is nothing to read, or its classes are not those that were asked for.
        """
        if self.root is None and self.hub is None:
            raise ValueError(
                "root must be a folder with train/ and val/ (set task.root=DIR), got null, and no hub either"
            )
        if self.root is not None:
            paths = self._local_splits(self.root)
            kinds = {path.is_dir() for path in paths.values()}
            if len(kinds) > 1 or paths["train"] == paths["validation"]:
                names = " and ".join(path.name for path in paths.values())
                raise ValueError(f"train and validation must be two folders or two Parquet files, got {names}")
            if paths["train"].is_dir():
                image_files.check_same_classes(paths["train"], paths["validation"])
        names = self._local_names()
        if len(names) == 1:
            raise ValueError(f"root must hold at least 2 classes, got 1 in {self.root}: {names[0]}")
        self._check_names(names, str(self.root))
        if self.num_labels == 0:
            raise ValueError("num_labels must be given where no class folders or label names can be counted, got null")

    def load(self) -> TaskData:
        """Find every row, then read all of them once to check labels and images.

        Raises:
            ValueError: if a split is missing or empty, its columns cannot be told, or a row is bad.
            ConnectionError: if the hub cannot be reached.
        """
        self.check()
        # Slow to import, and only needed here.
        from mimicry.data.image_rows import verify_images
        from mimicry.data.image_tables import open_hub, open_local

        if self.root is None:
            tables = open_hub(str(self.hub), {split: name or split for split, name in self.splits.items()})
        else:
            tables = open_local(self._local_splits(self.root))
        columns = {split: table.find_columns(self.columns) for split, table in tables.items()}
        names = self._local_names() or tables["train"].label_names(columns["train"])
        self._check_names(names, tables["train"].source)
        rows = {}
        for split, table in tables.items():
            if len(table.rows) == 0:
                raise ValueError(f"{split} split of {self.name} must have at least one row, got 0 from {table.source}")
            limit = self.limits.max_train_rows if split == "train" else self.limits.max_validation_rows
            rows[split] = table.choose(columns[split], draw_indices(len(table.rows), limit))
        return TaskData(
            name=self.name,
            num_labels=self.num_labels,
            metrics=self.metrics,
            train=rows["train"],
            validation={"validation": rows["validation"]},
            sources={split: table.source for split, table in tables.items()},
            fingerprint=verify_images(rows, self.num_labels),
            label_names=names,
            available={split: len(table.rows) for split, table in tables.items()},
        )

    def encoder(self, processor: Any, max_length: int) -> "Encoder":
        """Decodes images as batches ask for them; `max_length` is the number of the model's tokens."""
        # Slow to import, and only needed here.
        from mimicry.data.image_batches import ImageEncoder

        return ImageEncoder(processor, max_length, self.workers)

    def _local_splits(self, root: Path) -> dict[str, Path]:
        train, validation = self.splits["train"], self.splits["validation"]
        return {
            "train": image_files.find_split(root, "train", [train or "train"]),
            "validation": image_files.find_split(root, "validation", [validation] if validation else VALIDATION_NAMES),
        }

    def _local_names(self) -> tuple[str, ...]:
        """Of the classes, as far as the local folder tells; it may also be missing."""
        if self.root is None or not self.root.is_dir():
            return ()
        train = self._local_splits(self.root)["train"]
        return image_files.class_folders(train) if train.is_dir() else image_files.label_names(self.root)

    def _check_names(self, names: tuple[str, ...], source: str) -> None:
        if names and len(names) != self.num_labels:
            raise ValueError(f"num_labels must be {len(names)}, the classes of {source}, got {self.num_labels}")
