"""The eight GLUE tasks of the paper: metrics, labels, and how the GLUE release and the hub lay out their rows.

Source: Wang et al. 2018 (arXiv 1804.07461); the choice of metrics follows arXiv 2402.04347, Table 8.
"""

from dataclasses import dataclass, field

MAX_SCORE = 5.0


@dataclass(frozen=True)
class GlueSpec:
    """One GLUE task.

    Attributes:
        folder: its folder in the GLUE release.
        metrics: the first one is the primary metric.
        labels: label strings of the release in the order of their class ids; empty for a score from 0 to `MAX_SCORE`.
        text: column of the sentence, or of a pair's first one, in the release.
        pair: column of the second one; None for single sentences.
        label: column of the label in the release; the hub calls it `label` everywhere.
        hub_columns: the hub's names for `text` and `pair`, where they differ.
        columns: all columns of a release file that has no header line.
        has_torn_rows: whether the release has rows of another width than their header, which cannot be read.
        validation: stem of each validation file in the release, by the hub's name of the split; the first is primary.
    """

    folder: str
    metrics: tuple[str, ...]
    labels: tuple[str, ...]
    text: str
    pair: str | None = None
    label: str = "label"
    hub_columns: tuple[str, str] | None = None
    columns: tuple[str, ...] | None = None
    has_torn_rows: bool = False
    validation: dict[str, str] = field(default_factory=lambda: {"validation": "dev"})

    @property
    def num_labels(self) -> int:
        """Number of classes; 1 for a score."""
        return len(self.labels) or 1

    @property
    def label_names(self) -> tuple[str, ...]:
        """Names of the classes in the order of their ids; empty where the release only numbers them."""
        return () if all(label.isdigit() for label in self.labels) else self.labels

    def parse_label(self, value: str, place: str) -> int | float:
        """The class id or score that the release writes as `value`; ValueError naming `place` if it is neither."""
        if not self.labels:
            return _parse_score(value, place)
        if value not in self.labels:
            raise ValueError(f"{place}: label must be one of {', '.join(self.labels)}, got {value!r}")
        return self.labels.index(value)

    def check_class_id(self, label: int | float | None, place: str) -> int | float:
        """The class id or score that the hub gives; ValueError naming `place` if it is out of range."""
        if not self.labels:
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


_BINARY = ("0", "1")
_ENTAILMENT = ("entailment", "not_entailment")

GLUE_SPECS = {
    "cola": GlueSpec(
        folder="CoLA",
        metrics=("matthews",),
        labels=_BINARY,
        text="sentence",
        columns=("source", "label", "mark", "sentence"),
    ),
    "sst2": GlueSpec(folder="SST-2", metrics=("accuracy",), labels=_BINARY, text="sentence"),
    "mrpc": GlueSpec(
        folder="MRPC",
        metrics=("f1", "accuracy"),
        labels=_BINARY,
        text="#1 String",
        pair="#2 String",
        label="Quality",
        hub_columns=("sentence1", "sentence2"),
    ),
    "stsb": GlueSpec(
        folder="STS-B",
        metrics=("pearson", "spearman"),
        labels=(),
        text="sentence1",
        pair="sentence2",
        label="score",
    ),
    "qqp": GlueSpec(
        folder="QQP",
        metrics=("accuracy", "f1"),
        labels=_BINARY,
        text="question1",
        pair="question2",
        label="is_duplicate",
        has_torn_rows=True,
    ),
    "mnli": GlueSpec(
        folder="MNLI",
        metrics=("accuracy",),
        labels=("entailment", "neutral", "contradiction"),
        text="sentence1",
        pair="sentence2",
        label="gold_label",
        hub_columns=("premise", "hypothesis"),
        validation={"validation_matched": "dev_matched", "validation_mismatched": "dev_mismatched"},
    ),
    "qnli": GlueSpec(folder="QNLI", metrics=("accuracy",), labels=_ENTAILMENT, text="question", pair="sentence"),
    "rte": GlueSpec(folder="RTE", metrics=("accuracy",), labels=_ENTAILMENT, text="sentence1", pair="sentence2"),
}
