import dataclasses

import pytest

from mimicry.data.task import Example, RowLimits, TaskData, build_task_data, limit_rows

ROWS = tuple(Example(f"text {index}", None, index % 2) for index in range(50))
SOURCES = {"train": "here", "validation": "there"}


class TwoLabels:
    name = "two_labels"
    modality = "text"
    num_labels = 2
    metrics = ("accuracy",)

    def check(self) -> None: ...

    def load(self) -> TaskData:
        return build(ROWS, ROWS)

    def encoder(self, processor: object, max_length: int) -> None: ...


def build(train: tuple[Example, ...], validation: tuple[Example, ...], *limits: int) -> TaskData:
    return build_task_data(
        TwoLabels(), RowLimits(*(limits or (None, None))), train, {"validation": validation}, SOURCES
    )


@pytest.mark.parametrize("limit", [None, 50, 51])
def test_a_limit_that_does_not_bind_keeps_every_row_in_order(limit: int | None) -> None:
    assert limit_rows(ROWS, limit) == ROWS


def test_a_limit_draws_the_same_rows_every_time_and_leaves_them_in_order() -> None:
    kept = limit_rows(ROWS, 10)
    assert kept == limit_rows(ROWS, 10)
    assert len(set(kept)) == 10
    assert list(kept) == sorted(kept, key=ROWS.index)
    assert kept != ROWS[:10]


def test_another_seed_draws_other_rows() -> None:
    assert limit_rows(ROWS, 10, seed=0) != limit_rows(ROWS, 10, seed=1)


@pytest.mark.parametrize("field", ["max_train_rows", "max_validation_rows"])
@pytest.mark.parametrize("limit", [0, -1])
def test_a_limit_below_one_is_refused_by_name(field: str, limit: int) -> None:
    limits = {"max_train_rows": None, "max_validation_rows": None} | {field: limit}
    with pytest.raises(ValueError, match=f"^{field} must be >= 1 or null, got {limit}$"):
        RowLimits(**limits)


def test_the_limits_apply_to_their_own_split() -> None:
    data = build(ROWS, ROWS, 7, 3)
    assert (len(data.train), len(data.validation["validation"])) == (7, 3)


def test_task_data_carries_what_the_task_says_about_itself() -> None:
    data = build(ROWS, ROWS)
    assert (data.name, data.num_labels, data.metrics, data.sources) == ("two_labels", 2, ("accuracy",), SOURCES)


@pytest.mark.parametrize("change", [{"text": "other"}, {"pair": ""}, {"label": 1}, {"label": 0.0}])
def test_the_fingerprint_changes_with_any_field_of_any_row(change: dict[str, object]) -> None:
    changed = (dataclasses.replace(ROWS[0], **change), *ROWS[1:])
    fingerprints = {build(ROWS, ROWS).fingerprint, build(changed, ROWS).fingerprint, build(ROWS, changed).fingerprint}
    assert len(fingerprints) == 3


def test_the_fingerprint_is_repeatable_and_depends_on_order_and_split() -> None:
    assert build(ROWS, ROWS).fingerprint == build(ROWS, ROWS).fingerprint
    assert build(ROWS, ROWS).fingerprint != build(ROWS[::-1], ROWS).fingerprint
    assert build(ROWS[:20], ROWS[20:]).fingerprint != build(ROWS[:21], ROWS[21:]).fingerprint


@pytest.mark.parametrize(
    ("train", "validation", "message"),
    [
        ((), ROWS, "train split of two_labels must have at least one row, got 0 from here"),
        (ROWS, (), "validation split of two_labels must have at least one row, got 0 from there"),
    ],
)
def test_an_empty_split_is_refused(train: tuple[Example, ...], validation: tuple[Example, ...], message: str) -> None:
    with pytest.raises(ValueError, match=f"^{message}$"):
        build(train, validation)
