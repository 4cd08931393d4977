"""GLUE's metrics, from torchmetrics."""

import warnings
from collections.abc import Callable

from torchmetrics import Metric, MetricCollection
from torchmetrics.classification import BinaryF1Score, MulticlassAccuracy, MulticlassMatthewsCorrCoef
from torchmetrics.regression import PearsonCorrCoef, SpearmanCorrCoef

# Units: accuracy and f1 are fractions in [0, 1], the others correlations in [-1, 1].
BUILDERS: dict[str, Callable[[int], Metric]] = {
    # The default would average over classes; GLUE counts examples.
    "accuracy": lambda num_labels: MulticlassAccuracy(num_labels, average="micro"),
    "f1": lambda num_labels: BinaryF1Score(),
    "matthews": lambda num_labels: MulticlassMatthewsCorrCoef(num_labels),
    "pearson": lambda num_labels: PearsonCorrCoef(),
    "spearman": lambda num_labels: SpearmanCorrCoef(),
}
UNITS = {"accuracy": "fraction", "f1": "fraction", "matthews": "correlation"} | dict.fromkeys(
    ("pearson", "spearman"), "correlation"
)


def build_metrics(names: tuple[str, ...], num_labels: int) -> MetricCollection:
    """Metrics by name over predicted labels (classification) or values (num_labels = 1).

    Raises:
        ValueError: if a name is not one of GLUE's metrics.
    """
    unknown = [name for name in names if name not in BUILDERS]
    if unknown:
        raise ValueError(f"metrics must be among {', '.join(sorted(BUILDERS))}, got {unknown[0]!r}")
    with warnings.catch_warnings():
        # Spearman keeps every prediction until the end: fine for validation sets, as its warning itself says.
        warnings.filterwarnings("ignore", message="Metric `SpearmanCorrcoef` will save all targets")
        built = {name: BUILDERS[name](num_labels) for name in names}
    return MetricCollection(built, compute_groups=False)
