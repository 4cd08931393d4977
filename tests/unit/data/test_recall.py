"""Associative recall holds what its definition says, is the same everywhere, and refuses what cannot be."""

import itertools

import numpy as np
import pytest

from mimicry.data.batches import Encoder, Rows, TaskBatches
from mimicry.data.recall import AssociativeRecall
from mimicry.data.task import Task, TaskData
from mimicry.data.token_rows import IGNORED, TokenRows

SMALL = {"num_symbols": 12, "length": 16, "max_train_rows": 1500, "max_validation_rows": 300}


def load(**options: object) -> TaskData:
    task = AssociativeRecall(**(SMALL | options))
    assert isinstance(task, Task)
    task.check()
    return task.load()


def tokens_of(rows: TokenRows) -> np.ndarray:
    ((tokens, _),) = rows.tables
    return tokens


def test_a_row_is_pairs_of_one_map_then_the_marker_a_key_that_occurred_and_its_value() -> None:
    data = load()
    for row in (*data.train, *data.validation["validation"]):
        pairs, (marker, key, value) = row.tokens[:-3].reshape(-1, 2), row.tokens[-3:]
        value_of = dict(pairs.tolist())
        assert all(value_of[k] == v for k, v in pairs.tolist())
        assert value_of[key] == value
        assert marker == 12
        assert set(value_of) <= set(range(6))
        assert set(value_of.values()) <= set(range(6, 12))


def test_every_row_has_a_map_of_its_own_and_repeats_pairs() -> None:
    tokens = tokens_of(load().train)
    assert len(np.unique(tokens, axis=0)) == len(tokens)
    keys, values = tokens[:, 0:-3:2], tokens[:, 1:-3:2]
    # Of 8 draws from 6 keys, 6 (1 - (5/6)^8) = 4.60 are different.
    assert np.mean([len(set(row)) for row in keys.tolist()]) == pytest.approx(4.60, abs=0.1)
    for key, value in itertools.product(range(6), range(6, 12)):
        assert (values[keys == key] == value).mean() == pytest.approx(1 / 6, abs=0.05)


def test_each_key_that_occurs_is_asked_for_as_often_whatever_its_count() -> None:
    tokens = tokens_of(load(num_symbols=4, length=8, max_train_rows=8000).train)
    once = (tokens[:, 0:-3:2] == 0).sum(axis=1) == 1
    assert (tokens[once, -2] == 0).mean() == pytest.approx(0.5, abs=0.05)


def test_training_scores_every_token_and_testing_the_last_alone() -> None:
    data = load()
    row, test = data.train[0], data.validation["validation"][0]
    assert np.array_equal(row.labels, row.tokens)
    assert (test.labels[:-1] == IGNORED).all()
    assert test.labels[-1] == test.tokens[-1]
    answered = load(score="answer")
    assert np.array_equal(tokens_of(answered.train), tokens_of(data.train))
    assert (answered.train[0].labels[:-1] == IGNORED).all()


def test_test_rows_are_drawn_anew() -> None:
    data = load()
    train = set(map(bytes, tokens_of(data.train)))
    assert not train & set(map(bytes, tokens_of(data.validation["validation"])))


def test_the_default_data_is_the_same_on_every_machine() -> None:
    data = AssociativeRecall().load()
    assert (len(data.train), len(data.validation["validation"])) == (10_000, 2_000)
    assert (data.name, data.num_labels, data.metrics) == ("associative_recall", 0, ("accuracy",))
    assert data.sources == dict.fromkeys(("train", "validation"), "drawn with seed 0")
    assert data.train[0].tokens[:10].tolist() == [15, 23, 3, 20, 1, 25, 5, 38, 10, 36]
    assert data.fingerprint == "48cf0d24a02798e855a8f548f2a1f871e829bbacc9e4259ba53f14142099e2c8"


def test_fewer_rows_are_the_first_of_more() -> None:
    few, more = load(max_train_rows=5, max_validation_rows=3), load(max_train_rows=2000)
    assert np.array_equal(tokens_of(few.train), tokens_of(more.train)[:5])
    assert len(few.validation["validation"]) == 3


@pytest.mark.parametrize("change", [{"seed": 1}, {"length": 18}, {"num_symbols": 14}, {"max_train_rows": 1499}])
def test_the_fingerprint_changes_with_every_option_that_changes_rows(change: dict[str, int]) -> None:
    assert load(**change).fingerprint != load().fingerprint
    assert load().fingerprint == load().fingerprint


def test_rows_become_batches_of_tokens_and_labels() -> None:
    task = AssociativeRecall(**SMALL)
    data, encoder = task.load(), task.encoder(None, task.max_length)
    assert isinstance(encoder, Encoder)
    train = encoder.encode(data.train)
    assert isinstance(train, Rows)
    validation = {name: encoder.encode(rows) for name, rows in data.validation.items()}
    batches = TaskBatches(encoder, train, train, [], validation, seed=0)
    batch = next(iter(batches.training("train", 32)))
    assert batch.keys() == {"input_ids", "labels"}
    assert batch["input_ids"].shape == (32, 19)
    assert (batch["labels"] == batch["input_ids"]).all()
    scored = [b["labels"][b["labels"] != IGNORED] for b in batches.measuring(validation["validation"])]
    assert sum(map(len, scored)) == 300
    assert batches.tokens(batches.training("train", 32)) == 1500 * 19
    assert (task.vocab_size, encoder.vocab_size, task.max_length) == (13, 13, 19)
    names = encoder.position_names(data.train[0])
    assert names[-3] == "?"
    assert names[0] == f"k{data.train[0].tokens[0]}"
    assert names[1] == f"v{data.train[0].tokens[1] - 6}"


def test_a_model_too_short_for_the_rows_is_refused() -> None:
    task = AssociativeRecall(**SMALL)
    with pytest.raises(ValueError, match=r"^max_length must be >= the 19 tokens of the longest row, got 18$"):
        task.encoder(None, 18).encode(task.load().train)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"num_symbols": 13}, r"num_symbols must be even and >= 4, got 13"),
        ({"num_symbols": 2}, r"num_symbols must be even and >= 4, got 2"),
        ({"length": 15}, r"length must be even and >= 2, got 15"),
        ({"length": 0}, r"length must be even and >= 2, got 0"),
        ({"seed": -1}, r"seed must be >= 0, got -1"),
        ({"max_train_rows": 0}, r"max_train_rows must be >= 1, got 0"),
        ({"max_validation_rows": 0}, r"max_validation_rows must be >= 1, got 0"),
    ],
)
def test_impossible_settings_are_refused(options: dict[str, int], message: str) -> None:
    with pytest.raises(ValueError, match=f"^{message}$"):
        AssociativeRecall(**(SMALL | options))


@pytest.mark.usefixtures("without_shape_hook")
def test_unknown_scores_are_refused() -> None:
    with pytest.raises(ValueError, match=r"^score must be one of all, answer, got 'last'$"):
        AssociativeRecall(score="last")
