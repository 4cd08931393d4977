"""What trained weights are checked for, of text and images alike: where they lie, their head, and a known score."""

import json
import logging
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mimicry.registration import MODEL_TYPE

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class KnownScores:
    """What a finished teacher is known to score, from its card.

    Args:
        teacher: its folder or hub id; None where the teacher is finetuned here, of which nothing can be known.
        scores: by task, its primary metric as a fraction or correlation; None where nothing is known.
        tolerance: how far below its known score a teacher may score here, >= 0.

    Raises:
        ValueError: if a score or the tolerance is out of range, or there are scores of no teacher.
    """

    teacher: str | None
    scores: Mapping[str, float] | None
    tolerance: float

    def __post_init__(self) -> None:
        for task, score in (self.scores or {}).items():
            # Percentages are the likely slip.
            if not isinstance(score, int | float) or not -1 <= score <= 1:
                raise ValueError(f"model.known_scores.{task} must be a fraction from -1 to 1, got {score!r}")
        if not self.tolerance >= 0:
            raise ValueError(f"model.score_tolerance must be >= 0, got {self.tolerance}")
        if self.scores and self.teacher is None:
            raise ValueError(
                f"model.known_scores needs model.teacher, whose scores they are, got {', '.join(self.scores)} alone"
            )

    def of(self, task: str) -> float | None:
        """The teacher's score on a task; None where no scores are known at all.

        Raises:
            ValueError: if there are scores, but of other tasks alone: a name misspelt would check nothing.
        """
        if not self.scores:
            return None
        if task not in self.scores:
            raise ValueError(
                f"model.known_scores must name the task, {task}, got {', '.join(self.scores)}; "
                "where the teacher's score on it is not known, set model.known_scores=null"
            )
        return self.scores[task]

    def check(self, task: str, metric: str, score: float) -> None:
        """Refuses a teacher that scores below its known score: a head misread or a wrong task shows here.

        Says in the log when nothing is known of the teacher. One that is finetuned here is not checked.

        Args:
            task: the task's name.
            metric: its primary metric, for the message.
            score: what the teacher scored on the validation rows of this run.

        Raises:
            ValueError: if the score is more than the tolerance below the known one, or as `of`.
        """
        if self.teacher is None:
            return
        known = self.of(task)
        if known is None:
            log.info(
                "%s: its score on %s is not checked, none is known; to check it give model.known_scores={%s: 0.9}",
                *(self.teacher, task, task),
            )
        # Written so that a score that is not a number is refused too.
        elif not score >= known - self.tolerance:
            raise ValueError(
                f"model.teacher: {self.teacher} scores {metric} {score:.4f} on {task} here, "
                f"but its known score is {known:.4f} (model.score_tolerance={self.tolerance:g}); "
                "was it finetuned on another task, or with the labels in another order? "
                "If only a subset of the validation rows is scored, raise model.score_tolerance"
            )


def read_config(option: str, source: str) -> dict[str, Any] | None:
    """The config of a local folder; None where `source` can only be a hub id.

    Raises:
        ValueError: if there is no such folder, or no JSON object in its config.json.
    """
    folder = Path(source).expanduser()
    if not folder.is_dir():
        if source.startswith((".", "/", "~")) or source.count("/") > 1:
            raise ValueError(f"{option}: no such folder: {source}")
        return None
    file = folder / "config.json"
    if not file.is_file():
        raise ValueError(f"{option}: no config.json in {folder}")
    try:
        config = json.loads(file.read_text(encoding="utf-8"))
    except json.JSONDecodeError as error:
        raise ValueError(f"{option}: {file} is not JSON ({error})") from error
    if not isinstance(config, dict):
        raise ValueError(f"{option}: {file} must hold a JSON object, got {type(config).__name__}")
    return {"model_type": None} | config


def check_unconverted(config: Any) -> None:
    """Refuses a model that is converted already: its weights were trained for the attention it has, not for softmax."""
    entry = getattr(config, MODEL_TYPE, None)
    if entry is not None:
        base = entry.get("base") if isinstance(entry, dict) else None
        raise ValueError(
            f"model: it is converted already (from {base or 'a model of unknown name'}), and a run converts softmax "
            "models; start from that one, or load this one with mimicry.load to train it further"
        )


def fit_head(config: Any, num_labels: int) -> None:
    """Asks for a head of `num_labels` outputs in a model's config, and for the task's loss: 1 means regression.

    A config that was finetuned for something else names the loss of that.
    """
    config.num_labels = num_labels
    config.problem_type = _problem_type(num_labels)


def check_head(option: str, source: str, config: Any, num_labels: int, labels: tuple[str, ...]) -> None:
    """Refuses a finished classifier whose outputs are not the task's value or its classes in the task's order.

    Args:
        option: that named the classifier, for the message.
        source: its folder or hub id, for the message.
        config: its config.
        num_labels: outputs it must have.
        labels: names of the task's classes by id; nothing is compared where either has none.
    """
    if config.num_labels != num_labels:
        raise ValueError(f"{option}: its head must have {num_labels} outputs, got {config.num_labels}")
    # Where it is null, the host library goes by the number of outputs, too.
    if config.problem_type not in (None, _problem_type(num_labels)):
        raise ValueError(
            f"{option}: {source!r} must be a model for {_problem_type(num_labels)}, got its problem_type "
            f"{config.problem_type!r}"
        )
    donor = [_plain(config.id2label[index]) for index in sorted(config.id2label)]
    task = [_plain(label) for label in labels]
    if sorted(donor) == sorted(task) and donor != task:
        orders = f"({', '.join(task)}), got {', '.join(donor)}"
        raise ValueError(f"{option}: {source!r} must have its labels in the task's order {orders}")


def check_weights(what: str, prefix: str, missing: list[str], finished: bool) -> None:
    """Refuses weights with holes: only a new head, and the pooler under it, may start at random.

    Args:
        what: the option and its source, for the message.
        prefix: the encoder's name inside the model.
        missing: names of weights that were not loaded.
        finished: there must be a trained head too.
    """
    if finished and missing:
        raise ValueError(f"{what} is not a finished classifier, it lacks {', '.join(missing[:3])}")
    holes = [key for key in missing if key.startswith(f"{prefix}.") and ".pooler." not in key]
    if holes:
        raise ValueError(f"{what} lacks weights of its encoder: {', '.join(holes[:3])}")


def _problem_type(num_labels: int) -> str:
    return "regression" if num_labels == 1 else "single_label_classification"


def _plain(label: str) -> str:
    return str(label).lower().replace("-", "_").replace(" ", "_")
