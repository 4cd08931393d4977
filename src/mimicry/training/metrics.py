"""The scores of the tasks, from torchmetrics."""

import warnings
from collections.abc import Callable
from typing import Any, Protocol, runtime_checkable

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torchmetrics import Metric, MetricCollection, SumMetric
from torchmetrics.classification import BinaryF1Score, MulticlassAccuracy, MulticlassMatthewsCorrCoef
from torchmetrics.regression import PearsonCorrCoef, SpearmanCorrCoef

from mimicry.data.batches import model_inputs
from mimicry.training.summaries import ROUGES, RougeScores


class Matthews(MulticlassMatthewsCorrCoef):
    """Matthews correlation, 0 where all predictions or all labels are equal, as GLUE's scorer, scikit-learn, has it.

    Deviation: torchmetrics gives a small number or 1 there, so that a constant model would seem to know something.
    """

    def compute(self) -> Tensor:
        constant = any(int((self.confmat.sum(dim) > 0).sum()) < 2 for dim in (0, 1))
        return torch.zeros((), device=self.confmat.device) if constant else super().compute().float()


BUILDERS: dict[str, Callable[[int], Metric]] = {
    # The default would average over classes; GLUE counts examples.
    "accuracy": lambda num_labels: MulticlassAccuracy(num_labels, average="micro"),
    "top1": lambda num_labels: MulticlassAccuracy(num_labels, average="micro"),
    "top5": lambda num_labels: MulticlassAccuracy(num_labels, average="micro", top_k=5),
    "f1": lambda num_labels: BinaryF1Score(),
    "matthews": Matthews,
    "pearson": lambda num_labels: PearsonCorrCoef(),
    "spearman": lambda num_labels: SpearmanCorrCoef(),
}
# Negative log-likelihoods in nats; their exponentials are the perplexities that tables show.
LIKELIHOODS = ("nll_token", "nll_word")
# Accuracies and f1 are fractions in [0, 1], correlations lie in [-1, 1].
UNITS = (
    dict.fromkeys(("accuracy", "top1", "top5", "f1", *ROUGES), "fraction")
    | dict.fromkeys(("matthews", "pearson", "spearman"), "correlation")
    | {"nll_token": "nats/token", "nll_word": "nats/word"}
)


@runtime_checkable
class Scores(Protocol):
    """What a model is measured by: filled batch by batch, then computed once."""

    def update(self, model: nn.Module, batch: dict[str, Tensor]) -> None:
        """Runs the model on one batch and adds what it predicts."""

    def compute(self) -> dict[str, Tensor]:
        """The scores of all batches since the last reset, by name."""

    def reset(self) -> None:
        """Forgets all batches."""


def build_scores(names: tuple[str, ...], num_labels: int, tokenizer: Any = None, new_tokens: int = 1) -> Scores:
    """The scores of a task by their names; `num_labels` = 1 means regression, 0 that tokens are predicted.

    Texts that the model writes are scored with its `tokenizer`, `new_tokens` of each at most.

    Raises:
        ValueError: if a name is unknown, or likelihoods stand beside scores of classes.
    """
    if set(names) <= set(LIKELIHOODS):
        return LikelihoodScores()
    if set(names) == {*LIKELIHOODS, *ROUGES}:
        return BothScores(LikelihoodScores(), RougeScores(tokenizer, new_tokens))
    if num_labels == 0:
        return TokenScores(names)
    return PredictionScores(build_metrics(names, num_labels))


class PredictionScores(nn.Module):
    """Scores of predicted classes or values against labels.

    Args:
        metrics: from `build_metrics`.
    """

    def __init__(self, metrics: MetricCollection) -> None:
        super().__init__()
        self.metrics = metrics

    def update(self, model: nn.Module, batch: dict[str, Tensor]) -> None:
        update_metrics(self.metrics, model(**model_inputs(batch)).logits, batch["labels"])

    def compute(self) -> dict[str, Tensor]:
        return dict(self.metrics.compute())

    def reset(self) -> None:
        self.metrics.reset()


class LikelihoodScores(nn.Module):
    """Mean negative log-likelihood of the text, `nll_token` over predicted tokens and `nll_word` over its words.

    Perplexity per token depends on the tokenizer, per word it does not.
    """

    def __init__(self) -> None:
        super().__init__()
        self.nll, self.tokens, self.words = (SumMetric() for _ in range(3))

    def update(self, model: nn.Module, batch: dict[str, Tensor]) -> None:
        # As the host library does it: the model's output at one token is its prediction of the next.
        targets = batch["labels"][:, 1:]
        logits = model(**model_inputs(batch)).logits
        # Row by row, so that no second copy of all logits is made; in float32, whatever the model's precision.
        nll = [F.cross_entropy(row[:-1].float(), at, reduction="sum") for row, at in zip(logits, targets, strict=True)]
        self.nll.update(torch.stack(nll))
        self.tokens.update((targets != -100).sum())
        self.words.update(batch["words"])

    def compute(self) -> dict[str, Tensor]:
        nll = self.nll.compute()
        return {"nll_token": nll / self.tokens.compute(), "nll_word": nll / self.words.compute()}

    def reset(self) -> None:
        for metric in (self.nll, self.tokens, self.words):
            metric.reset()


class BothScores(nn.Module):
    """Two kinds of scores of the same rows."""

    def __init__(self, *parts: Scores) -> None:
        super().__init__()
        self.parts = nn.ModuleList(parts)

    def update(self, model: nn.Module, batch: dict[str, Tensor]) -> None:
        for part in self.parts:
            part.update(model, batch)

    def compute(self) -> dict[str, Tensor]:
        return {name: value for part in self.parts for name, value in part.compute().items()}

    def reset(self) -> None:
        for part in self.parts:
            part.reset()


class TokenScores(nn.Module):
    """`accuracy`: the share of scored tokens that are predicted from those before them.

    Raises:
        ValueError: if another score is asked for.
    """

    def __init__(self, names: tuple[str, ...]) -> None:
        super().__init__()
        if names != ("accuracy",):
            raise ValueError(f"metrics of predicted tokens must be accuracy or likelihoods, got {', '.join(names)}")
        self.right, self.scored = SumMetric(), SumMetric()

    def update(self, model: nn.Module, batch: dict[str, Tensor]) -> None:
        targets = batch["labels"][:, 1:]
        predictions = model(**model_inputs(batch)).logits[:, :-1].argmax(dim=-1)
        self.right.update((predictions == targets).sum())
        self.scored.update((targets != -100).sum())

    def compute(self) -> dict[str, Tensor]:
        return {"accuracy": self.right.compute() / self.scored.compute()}

    def reset(self) -> None:
        for metric in (self.right, self.scored):
            metric.reset()


def higher_is_better(name: str) -> bool:
    """Whether more of a score is better; False for losses."""
    return name not in LIKELIHOODS


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
