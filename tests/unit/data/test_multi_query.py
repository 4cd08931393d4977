"""Multi-query recall holds what its definition says, is the same everywhere, and refuses what cannot be."""

import numpy as np
import pytest

from mimicry.data.multi_query import MultiQueryRecall
from mimicry.data.task import Task, TaskData
from mimicry.data.token_rows import IGNORED

SMALL = {"num_symbols": 64, "settings": [[32, 6]], "max_train_rows": 1500, "max_validation_rows": 200}


def load(**options: object) -> TaskData:
    task = MultiQueryRecall(**(SMALL | options))
    assert isinstance(task, Task)
    task.check()
    return task.load()


def test_each_key_is_asked_for_once_and_its_value_is_the_label_behind_it() -> None:
    data = load()
    for row in (*data.train, *data.validation["validation"]):
        keys, values = row.tokens[:12].reshape(-1, 2).T
        assert len(set(keys)) == len(set(values)) == 6
        assert set(keys) <= set(range(32))
        assert set(values) <= set(range(32, 64))
        (scored,) = np.nonzero(row.labels != IGNORED)
        # Behind the pairs, at every second position.
        assert scored.min() > 12
        assert (scored % 2 == 1).all()
        asked = row.tokens[scored - 1]
        assert sorted(asked) == sorted(keys)
        value_of = dict(zip(keys, values, strict=True))
        assert [value_of[key] for key in asked] == row.labels[scored].tolist()


def test_answers_do_not_stand_in_the_input() -> None:
    ((tokens, labels),) = load(max_train_rows=8000).train.tables
    scored = labels != IGNORED
    # A random token is the answer by chance alone.
    assert (tokens[scored] == labels[scored]).mean() == pytest.approx(1 / 64, abs=0.004)


def test_queries_follow_the_power_law() -> None:
    def first_slots(gap_power: float) -> np.ndarray:
        ((_, labels),) = load(settings=[[34, 1]], gap_power=gap_power, max_train_rows=20_000).train.tables
        return np.bincount((np.nonzero(labels != IGNORED)[1] - 3) // 2, minlength=16) / 20_000

    for gap_power in (0.01, 1.0):
        weights = np.arange(1, 17) ** (gap_power - 1)
        np.testing.assert_allclose(first_slots(gap_power), weights / weights.sum(), atol=0.015)


def test_all_slots_may_be_queries() -> None:
    data = load(settings=[[24, 6]])
    assert all((row.labels[13::2] != IGNORED).all() for row in data.train[:50])


def test_every_setting_is_trained_on_and_scored_by_itself() -> None:
    data = load(settings=[[32, 6], [16, 2]], test_settings=[[16, 2], [32, 6], [64, 6]], max_train_rows=10)
    assert [len(row) for row in data.train] == [32] * 10 + [16] * 10
    lengths = {name: {len(row) for row in rows} for name, rows in data.validation.items()}
    assert lengths == {"validation": {16}, "validation_32_6": {32}, "validation_64_6": {64}}
    # A setting has the same rows in whatever company.
    assert np.array_equal(data.train[3].tokens, load().train[3].tokens)


def test_rows_of_unequal_lengths_are_padded_at_their_end() -> None:
    task = MultiQueryRecall(**(SMALL | {"settings": [[32, 6], [16, 2]], "max_train_rows": 2}))
    data, encoder = task.load(), task.encoder(None, 32)
    assert task.max_length == 32
    assert encoder.lengths(data.train) == [32, 32, 16, 16]
    batch = encoder.collate([data.train[0], data.train[3]])
    assert batch["input_ids"].shape == (2, 32)
    assert batch["input_ids"][1, :16].tolist() == data.train[3].tokens.tolist()
    assert (batch["labels"][1, 16:] == IGNORED).all()
    assert (batch["labels"] != IGNORED).sum(dim=1).tolist() == [6, 2]
    assert encoder.position_names(data.train[0])[:2] == [
        f"k{data.train[0].tokens[0]}",
        f"v{data.train[0].tokens[1] - 32}",
    ]


def test_rows_are_reached_by_any_index_a_list_takes() -> None:
    rows = load(settings=[[32, 6], [16, 2]], max_train_rows=3).train
    assert len(rows) == 6
    assert [len(row) for row in rows[2:5]] == [32, 16, 16]
    assert np.array_equal(rows[-1].tokens, rows[5].tokens)
    for index in (6, -7):
        with pytest.raises(IndexError):
            rows[index]


def test_the_default_data_is_the_same_on_every_machine() -> None:
    data = MultiQueryRecall(max_train_rows=2000).load()
    assert (data.name, data.num_labels, data.metrics) == ("mqar", 0, ("accuracy",))
    assert data.train[0].tokens[:8].tolist() == [851, 5552, 1931, 6981, 1581, 5138, 199, 7746]
    assert data.fingerprint == "f1c6c41ed1663de9ea8691c3a5f1d212e9645a6a82ffb39b715c015bf4e36016"


def test_fewer_rows_are_the_first_of_more() -> None:
    few, more = load(max_train_rows=5).train, load(max_train_rows=2000).train
    assert all(np.array_equal(row.tokens, other.tokens) for row, other in zip(few, more[:5], strict=True))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"num_symbols": 63}, r"num_symbols must be even and >= 4, got 63"),
        (
            {"num_symbols": 10, "settings": [[64, 6]]},
            r"settings must have at most as many pairs as keys \(5\), got \[64, 6\]",
        ),
        ({"settings": [[22, 6]]}, r"settings must have an even length >= 4 per pair, got \[22, 6\]"),
        ({"settings": [[33, 6]]}, r"settings must have an even length >= 4 per pair, got \[33, 6\]"),
        ({"test_settings": [[8, 0]]}, r"test_settings must hold \[length, pairs\] with at least 1 pair, got \[8, 0\]"),
        ({"test_settings": [[8]]}, r"test_settings must hold \[length, pairs\] with at least 1 pair, got \[8\]"),
        ({"settings": []}, r"settings must be a list of different \[length, pairs\], got \[\]"),
        (
            {"settings": [[32, 6], [32, 6]]},
            r"settings must be a list of different \[length, pairs\], got \[\[32, 6\], \[32, 6\]\]",
        ),
        ({"gap_power": 0.0}, r"gap_power must be > 0, got 0.0"),
        ({"seed": -1}, r"seed must be >= 0, got -1"),
        ({"max_train_rows": 0}, r"max_train_rows must be >= 1, got 0"),
    ],
)
def test_impossible_settings_are_refused(options: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=f"^{message}$"):
        MultiQueryRecall(**(SMALL | options))
