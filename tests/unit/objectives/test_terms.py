"""Weights of objectives: the paper's by default, refused in a line when they make no sense."""

import pytest

from mimicry.objectives import DistillationObjectives


def test_the_default_is_the_papers_loss_alone() -> None:
    objectives = DistillationObjectives()
    assert (objectives.attention, objectives.output, objectives.hidden, objectives.logits) == (1, 0, 0, 0)
    assert objectives.forces_teacher
    assert not objectives.runs_student


def test_terms_of_the_whole_student_alone_need_no_forcing() -> None:
    objectives = DistillationObjectives(attention=0.0, logits=1.0)
    assert objectives.runs_student
    assert not objectives.forces_teacher


@pytest.mark.usefixtures("without_shape_hook")
@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"output": -0.5}, r"^objectives.output must be >= 0 and finite, got -0.5$"),
        ({"output": "1"}, r"^objectives.output must be >= 0 and finite, got '1'$"),
        ({"temperature": None}, r"^objectives.temperature must be > 0 and finite, got None$"),
        ({"hidden": float("nan")}, r"^objectives.hidden must be >= 0 and finite, got nan$"),
        ({"logits": float("inf")}, r"^objectives.logits must be >= 0 and finite, got inf$"),
        ({"attention": 0.0}, r"^objectives must have at least one weight > 0 among attention, output, hidden, logits"),
        ({"temperature": 0.0}, r"^objectives.temperature must be > 0 and finite, got 0.0$"),
    ],
)
def test_weights_that_make_no_sense_are_refused(options: dict[str, float], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        DistillationObjectives(**options)
