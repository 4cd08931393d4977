"""Texts of chosen lengths, and positions past those that a model has."""

from pathlib import Path

import numpy as np
import pytest
import torch
from families import tiny_model
from toy import save_toy_checkpoint
from transformers import AutoTokenizer

import mimicry
from mimicry.data.batches import TaskBatches
from mimicry.data.task import Example
from mimicry.data.text import EncodedRow, TextEncoder
from mimicry.training.attention_analysis import AnalysisSettings, analyse_state, summarise_attention
from mimicry.training.layer_measures import FullAnalysis
from mimicry.training.lengths import Lengths


@pytest.fixture
def encoder(tmp_path: Path) -> TextEncoder:
    return TextEncoder(AutoTokenizer.from_pretrained(save_toy_checkpoint(tmp_path)), max_length=32)


def rows(encoder: TextEncoder, count: int = 60) -> list[EncodedRow]:
    return encoder.encode([Example(f"w{index % 20} good w3", None, 0) for index in range(count)])


def test_texts_are_rows_one_after_another(encoder: TextEncoder) -> None:
    encoded = rows(encoder)
    whole = [token for row in encoded for token in row.inputs["input_ids"]]
    texts = list(Lengths((64,), texts=3).batches(tiny_model("bert"), encoder, encoded, 64))
    assert [text["input_ids"].tolist() for text in texts] == [[whole[i : i + 64]] for i in (0, 64, 128)]
    # The model has 64 positions of its own.
    assert all(set(text) == {"input_ids"} for text in texts)
    with pytest.raises(ValueError, match=r"tokens must be <= the 300 tokens of all rows, got 301"):
        next(Lengths((301,)).batches(tiny_model("bert"), encoder, encoded, 301))


def test_repeated_positions_start_again_where_the_model_has_no_more(encoder: TextEncoder) -> None:
    model = tiny_model("bert")
    lengths = Lengths((128,), texts=1, past_maximum="repeat")
    lengths.check(model)
    (text,) = lengths.batches(model, encoder, rows(encoder), 128)
    assert text["position_ids"].tolist() == [[*range(64), *range(64)]]
    # RoBERTa's first two positions are padding's.
    (text,) = lengths.batches(tiny_model("roberta"), encoder, rows(encoder), 128)
    assert text["position_ids"].tolist() == [[*range(2, 64), *range(2, 64), *range(2, 6)]]


@pytest.mark.parametrize(("family", "past"), [("bert", "repeat"), ("roberta", "repeat"), ("llama", "extrapolate")])
def test_long_texts_are_measured_and_a_copy_of_the_teacher_stays_faithful(
    family: str, past: str, encoder: TextEncoder
) -> None:
    teacher = mimicry.canonicalise(tiny_model(family))
    encoded = rows(encoder)
    batches = TaskBatches(encoder, encoded, encoded, [], {"validation": encoded}, seed=0)
    full = FullAnalysis(lengths=Lengths((16, 128), texts=2, past_maximum=past))
    for attention, apart in (("softmax", False), ("elu", True)):
        student = mimicry.convert(teacher, attention)
        settings = AnalysisSettings(rows=4, full=full)
        summary = analyse_state(teacher, student, batches, encoded, settings, torch.device("cpu"))
        curves = {curve.name: curve for curve in summary.curves if curve.x_name == "tokens"}
        assert curves["analysis/kl"].x == [16, 128]
        assert (np.array(curves["analysis/kl"].y) > 1e-3).all() == apart
        assert curves["analysis/entropy"].y[1] > curves["analysis/entropy"].y[0]
    alone = analyse_state(teacher, teacher, batches, encoded, settings, torch.device("cpu"))
    assert [curve.name for curve in alone.curves if curve.x_name == "tokens"] == ["analysis/entropy"]


def test_a_text_within_the_positions_is_measured_as_a_row_is(encoder: TextEncoder) -> None:
    teacher = mimicry.canonicalise(tiny_model("bert"))
    student = mimicry.convert(teacher, "taylor")
    encoded = rows(encoder)
    first = encoder.collate(encoded[:1])
    texts = Lengths((5,), texts=1).batches(student, encoder, encoded, first["input_ids"].shape[1])
    whole = summarise_attention(teacher, student, [first])
    assert summarise_attention(teacher, student, texts).kl == pytest.approx(whole.kl, rel=1e-6)


REFUSED = [
    ("bert", "refuse", r"past_maximum must say how 128 tokens get positions, of which the model has 64: repeat"),
    ("llama", "refuse", r"past_maximum must say how 128 tokens get positions, of which the model has 64: extrapolate"),
    ("bert", "extrapolate", r"past_maximum must fit the model, which has a table of positions, got extrapolate"),
    ("llama", "repeat", r"past_maximum must fit the model, which has rotary positions, got repeat"),
]


@pytest.mark.parametrize(("family", "past", "message"), REFUSED)
def test_positions_past_the_maximum_are_refused_unless_chosen(family: str, past: str, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Lengths((32, 128), past_maximum=past).check(tiny_model(family))
    Lengths((32, 64), past_maximum=past).check(tiny_model(family))


def test_a_model_that_does_not_tell_its_positions_is_refused_only_if_lengths_are_asked_for() -> None:
    Lengths().check(torch.nn.Linear(2, 2))
    with pytest.raises(ValueError, match="lengths needs a text model of the host library"):
        Lengths((8,)).check(torch.nn.Linear(2, 2))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"tokens": (1,)}, "lengths.tokens must be >= 2, got 1"),
        ({"texts": 0}, "lengths.texts must be >= 1, got 0"),
    ],
)
def test_lengths_out_of_range_are_refused(options: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Lengths(**options)
