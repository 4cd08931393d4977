import re
from pathlib import Path

import pytest
import yaml

from mimicry.reporting.targets import Target, read_targets

EXPERIMENT = """
# @package _global_
hydra: {mode: MULTIRUN}
targets:
  - {quantity: score, stage: recovered, attn: hedgehog, model: bert_base, task: cola, value: 59.2, tolerance: 1.0,
     confidence: high, source: Table 8}
  - {quantity: percent_of_teacher, stage: recovered, attn: hedgehog, above: elu, source: "Table 8, small"}
"""


def written(folder: Path, text: str) -> Path:
    path = folder / "experiment.yaml"
    path.write_text(text, encoding="utf-8")
    return path


def test_targets_are_read_in_the_order_of_the_file(tmp_path: Path) -> None:
    value, ordering = read_targets(written(tmp_path, EXPERIMENT))
    assert (value.model, value.task, value.value, value.tolerance) == ("bert_base", "cola", 59.2, 1.0)
    assert value.confidence == "high"
    assert (ordering.above, ordering.value, ordering.task, ordering.confidence) == ("elu", None, None, None)


def test_an_experiment_without_targets_or_without_a_file_states_none(tmp_path: Path) -> None:
    assert read_targets(written(tmp_path, "regime: {holdout_rows: 5}")) == ()
    assert read_targets(tmp_path / "no_such.yaml") == ()


WHOLE = {"quantity": "score", "stage": "recovered", "attn": "elu", "value": 1, "tolerance": 0, "source": "T"}


@pytest.mark.parametrize(
    ("change", "rule"),
    [
        ({"quantity": "accuracy"}, "field 'targets[1].quantity' must be one of score, percent_of_teacher"),
        ({"stage": "swapped"}, "field 'targets[1].stage' must be one of teacher, no_train"),
        ({"confidence": "sure"}, "field 'targets[1].confidence' must be one of high, medium, uncertain, got 'sure'"),
        ({"value": "59.2"}, "field 'targets[1].value' must be of type float, got '59.2'"),
        ({"value": True}, "field 'targets[1].value' must be of type float, got True"),
        ({"source": 8}, "field 'targets[1].source' must be of type str, got 8"),
        ({"metric": "f1"}, "field 'targets[1].metric' is unknown, expected only quantity"),
        ({"value": None}, "targets[1]: value or above must be given, and not both"),
        ({"above": "relu"}, "targets[1]: value or above must be given, and not both"),
        ({"tolerance": None}, "targets[1]: tolerance must come with value"),
        ({"tolerance": -1}, "targets[1]: tolerance must be >= 0, got -1"),
        ({"value": float("inf")}, "targets[1]: value must be finite, got inf"),
        ({"value": None, "tolerance": None, "above": "elu"}, "targets[1]: above must name another attention than attn"),
    ],
)
def test_a_wrong_entry_is_refused_in_one_line_that_names_file_and_entry(
    tmp_path: Path, change: dict[str, object], rule: str
) -> None:
    entry = {**WHOLE, **change}
    path = written(tmp_path, yaml.safe_dump({"targets": [WHOLE, entry]}))
    with pytest.raises(ValueError, match="targets") as caught:
        read_targets(path)
    assert str(caught.value).startswith(f"{path}: {rule}")
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("text", "rule"),
    [
        ("targets: none", "field 'targets' must be a list, got 'none'"),
        ("targets: [5]", "field 'targets[0]' must be an object, got 5"),
        ("targets: [{quantity: score}]", "field 'targets[0].attn' is missing"),
        ("targets: [", "not YAML: while parsing"),
    ],
)
def test_what_is_no_list_of_entries_is_refused(tmp_path: Path, text: str, rule: str) -> None:
    path = written(tmp_path, text)
    with pytest.raises(ValueError, match=re.escape(f"{path}: {rule}")):
        read_targets(path)


def test_a_target_checks_itself() -> None:
    with pytest.raises(ValueError, match="value or above must be given"):
        Target(quantity="kl", stage="distilled", attn="hedgehog", source="Table 4")
