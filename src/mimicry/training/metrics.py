"""The scores of the tasks, from torchmetrics."""

import warnings
from collections.abc import Callable

from torch import Tensor
from torchmetrics import Metric, MetricCollection
from torchmetrics.classification import BinaryF1Score, MulticlassAccuracy, MulticlassMatthewsCorrCoef
from torchmetrics.regression import PearsonCorrCoef, SpearmanCorrCoef

# Units: accuracies and f1 are fractions in [0, 1], the others correlations in [-1, 1].
BUILDERS: dict[str, Callable[[int], Metric]] = {
    # The default would average over classes; GLUE counts examples.
    "accuracy": lambda num_labels: MulticlassAccuracy(num_labels, average="micro"),
    "top1": lambda num_labels: MulticlassAccuracy(num_labels, average="micro"),
    "top5": lambda num_labels: MulticlassAccuracy(num_labels, average="micro", top_k=5),
    "f1": lambda num_labels: BinaryF1Score(),
    "matthews": lambda num_labels: MulticlassMatthewsCorrCoef(num_labels),
    "pearson": lambda num_labels: PearsonCorrCoef(),
    "spearman": lambda num_labels: SpearmanCorrCoef(),
}
UNITS = dict.fromkeys(("accuracy", "top1", "top5", "f1"), "fraction") | dict.fromkeys(
    ("matthews", "pearson", "spearman"), "correlation"
)


def build_metrics(names: tuple[str, ...], num_labels: int) -> MetricCollection:
    """Metrics by name, to be filled by `update_metrics`; `num_labels` = 1 means regression.

    Raises:
        ValueError: if a name is unknown.
    """
    unknown = [name for name in names if name not in BUILDERS]
    if unknown:
        raise ValueError(f"metrics must be among {', '.join(sorted(BUILDERS))}, got {unknown[0]!r}")
    with warnings.catch_warnings():
        # Spearman keeps every prediction until the end: fine for validation sets, as its warning itself says.
        warnings.filterwarnings("ignore", message="Metric `SpearmanCorrcoef` will save all targets")
        built = {name: BUILDERS[name](num_labels) for name in names}
    return MetricCollection(built, compute_groups=False)


def update_metrics(metrics: MetricCollection, logits: Tensor, labels: Tensor) -> None:
    """Adds one batch: logits of shape (rows, classes), or (rows, 1) for values."""
    predictions = logits.squeeze(-1) if logits.shape[-1] == 1 else logits.argmax(dim=-1)
    for name, metric in metrics.items():
        metric.update(logits if name == "top5" else predictions, labels)
