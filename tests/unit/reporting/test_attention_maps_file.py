"""Attention maps come back from their file to within half a step."""

import json
from pathlib import Path

import numpy as np
import pytest

from mimicry.reporting.attention_maps import FILE_NAME, read_attention_maps, write_attention_maps

TOKENS = ["[CLS]", "größer", '"', "</script>", "[SEP]"]


def weights(seed: int) -> np.ndarray:
    return np.random.default_rng(seed).dirichlet(np.ones(5), size=(2, 3, 5)).astype(np.float32)


def test_weights_and_tokens_survive_the_file(tmp_path: Path) -> None:
    teacher, student = weights(0), weights(1)
    path = write_attention_maps(teacher, student, TOKENS, tmp_path / "run")
    assert path == tmp_path / "run" / FILE_NAME
    found_teacher, found_student, tokens = read_attention_maps(path)
    assert tokens == TOKENS
    np.testing.assert_allclose(found_teacher, teacher, atol=1 / 510 + 1e-6)
    np.testing.assert_allclose(found_student, student, atol=1 / 510 + 1e-6)
    content = json.loads(path.read_text(encoding="utf-8"))
    assert content["shape"] == [2, 3, 5, 5]
    # A byte a weight, and four characters for three bytes.
    assert len(content["student"]) == 4 * -(-150 // 3)


def test_a_model_without_teacher_has_none(tmp_path: Path) -> None:
    one_hot = np.eye(5)[None, None]
    teacher, student, _ = read_attention_maps(write_attention_maps(None, one_hot, TOKENS, tmp_path))
    assert teacher is None
    assert np.array_equal(student, one_hot)


@pytest.mark.parametrize(
    ("teacher", "student", "message"),
    [
        (None, weights(0)[..., :4], r"student must be \(layers, heads, 5, 5\), got \(2, 3, 5, 4\)"),
        (weights(0)[:1], weights(0), r"teacher must have the shape of student, \(2, 3, 5, 5\), got \(1, 3, 5, 5\)"),
        (weights(0), 2 * weights(0), r"student must be weights in \[0, 1\], got .* to 1\.\d"),
        (np.full_like(weights(0), np.nan), weights(0), r"teacher must be weights in \[0, 1\], got nan"),
    ],
)
def test_what_is_no_attention_is_refused(
    teacher: np.ndarray | None, student: np.ndarray, message: str, tmp_path: Path
) -> None:
    with pytest.raises(ValueError, match=message):
        write_attention_maps(teacher, student, TOKENS, tmp_path)


@pytest.mark.parametrize(
    "text", ["{", "{}", '{"teacher": null, "student": "AAAA", "shape": [1, 1, 2, 2], "tokens": []}']
)
def test_a_broken_file_is_named(text: str, tmp_path: Path) -> None:
    (tmp_path / FILE_NAME).write_text(text)
    with pytest.raises(ValueError, match=r"attention_maps.json must hold attention maps, got "):
        read_attention_maps(tmp_path / FILE_NAME)
