"""The eight GLUE tasks of the paper: metrics, labels, and how the GLUE release and the hub lay out their rows.

Source: Wang et al. 2018 (arXiv 1804.07461); the choice of metrics follows arXiv 2402.04347, Table 8.
"""

from dataclasses import dataclass

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
        validation: stem of the validation file in the release.
        hub_validation: name of the validation split on the hub.
    """

    folder: str
    metrics: tuple[str, ...]
    labels: tuple[str, ...]
    text: str
    pair: str | None = None
    label: str = "label"
    hub_columns: tuple[str, str] | None = None
    columns: tuple[str, ...] | None = None
    validation: str = "dev"
    hub_validation: str = "validation"

    @property
    def num_labels(self) -> int:
        """Number of classes; 1 for a score."""
        return len(self.labels) or 1


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
    ),
    "mnli": GlueSpec(
        folder="MNLI",
        metrics=("accuracy",),
        labels=("entailment", "neutral", "contradiction"),
        text="sentence1",
        pair="sentence2",
        label="gold_label",
        hub_columns=("premise", "hypothesis"),
        validation="dev_matched",
        hub_validation="validation_matched",
    ),
    "qnli": GlueSpec(folder="QNLI", metrics=("accuracy",), labels=_ENTAILMENT, text="question", pair="sentence"),
    "rte": GlueSpec(folder="RTE", metrics=("accuracy",), labels=_ENTAILMENT, text="sentence1", pair="sentence2"),
}
