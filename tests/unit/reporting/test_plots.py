from pathlib import Path

import matplotlib.image
import numpy as np
import pytest

from mimicry.reporting.plots import _sharpest_heads, attention_maps_figure

TOKENS = ["[CLS]", "the", "plot", "is", "un", "##believ", "##ably", "clever", ",", "and", "$", "5", "spent", "$"]


def weights(layers: int, sharpness: float) -> np.ndarray:
    scores = np.random.default_rng(0).normal(size=(layers, 3, len(TOKENS), len(TOKENS)))
    exponentials = np.exp(sharpness * scores)
    return exponentials / exponentials.sum(-1, keepdims=True)


@pytest.mark.parametrize("layers", [1, 6])
def test_the_figure_is_a_coloured_png_of_the_expected_size(tmp_path: Path, layers: int) -> None:
    path = tmp_path / "figures" / "attention.png"
    assert attention_maps_figure(weights(layers, 4.0), weights(layers, 2.0), TOKENS, "costs $5 or $6", path) == path
    pixels = matplotlib.image.imread(path)
    height, width = pixels.shape[:2]
    assert height > 900
    assert width > 300 * layers
    assert len(set(map(tuple, pixels[::10, ::10].reshape(-1, pixels.shape[-1])))) > 50


def test_each_layer_shows_the_head_the_teacher_attends_with_most_sharply() -> None:
    teacher = weights(3, 1.0)
    for layer, head in enumerate((2, 0, 1)):
        teacher[layer, head] = np.eye(len(TOKENS))
    assert _sharpest_heads(teacher) == [(0, 2), (1, 0), (2, 1)]


def test_of_many_layers_six_are_shown_from_first_to_last() -> None:
    assert [layer for layer, _ in _sharpest_heads(weights(12, 1.0))] == [0, 2, 4, 7, 9, 11]


def test_arguments_that_do_not_fit_together_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "attention.png"
    teacher = weights(2, 1.0)
    with pytest.raises(ValueError, match="teacher and student must share"):
        attention_maps_figure(teacher, weights(1, 1.0), TOKENS, "title", path)
    with pytest.raises(ValueError, match="tokens must name the rows and columns"):
        attention_maps_figure(teacher, teacher, TOKENS[1:], "title", path)
    with pytest.raises(ValueError, match="must be finite"):
        attention_maps_figure(teacher, np.full_like(teacher, np.nan), TOKENS, "title", path)
    assert not path.exists()


def test_the_difference_is_a_third_row(tmp_path: Path) -> None:
    teacher, student = weights(2, 4.0), weights(2, 2.0)
    sizes = [
        matplotlib.image.imread(
            attention_maps_figure(teacher, student, TOKENS, "title", tmp_path / f"{asked}.png", difference=asked)
        ).shape[0]
        for asked in (False, True)
    ]
    assert sizes[1] > 1.3 * sizes[0]
