import hashlib
import io
import math
import re
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from scipy.stats import binomtest, ks_2samp

from mimicry.data.batches import Encoder
from mimicry.data.draws import Draws
from mimicry.data.lra import pathfinder_pictures
from mimicry.data.lra.generated import SplitSizes
from mimicry.data.lra.pathfinder import Pathfinder32
from mimicry.data.lra.pathfinder_pictures import CurveRules, draw_pictures
from mimicry.data.lra.pathfinder_strokes import DEGREES, FULL, WINDOW, dot, strokes
from mimicry.data.lra.sequences import SequenceExample
from mimicry.data.task import Task

SHARED = Path(__file__).resolve().parents[5] / "shared/data/pathfinder-32"
SIZES = SplitSizes(train=20, validation=5, test=5)
LEVEL = "curv_contour_length_14"


@pytest.fixture(scope="module")
def drawn() -> tuple[np.ndarray, np.ndarray]:
    """Some pictures and their labels."""
    return draw_pictures(CurveRules(), 1000, Draws(0))


def dot_distances(pictures: np.ndarray, labels: np.ndarray) -> tuple[list[float], list[float]]:
    """How far the two dots of each picture lie apart, for negative and for positive pictures.

    A dot is four neighbouring pixels as bright as `dot` has them; pictures where two such places, not more, are found
    three or more pixels apart are counted.
    """
    found: tuple[list[float], list[float]] = ([], [])
    middle = dot()[WINDOW // 2 - 1 : WINDOW // 2 + 1, WINDOW // 2 - 1 : WINDOW // 2 + 1] / FULL
    for picture, label in zip(pictures / FULL, labels, strict=True):
        corners = [picture[r : 31 + r, c : 31 + c] / middle[r, c] for r in (0, 1) for c in (0, 1)]
        places = np.argwhere((np.min(corners, axis=0) > 0.78) & (np.ptp(corners, axis=0) < 0.02))
        if len(places) == 2 and (distance := math.dist(*places)) >= 3:
            found[label].append(distance)
    return found


def write_release(root: Path, pictures: list[np.ndarray], labels: list[int], as_array: bool = False) -> Path:
    """Ten pictures a folder, in the layout of the release; None writes an empty file."""
    level = root / LEVEL
    (level / "metadata").mkdir(parents=True)
    for first in range(0, len(labels), 10):
        folder = level / f"imgs/{first // 10}"
        folder.mkdir(parents=True)
        lines = []
        for number, label in enumerate(labels[first : first + 10]):
            buffer = io.BytesIO()
            Image.fromarray(pictures[first + number]).save(buffer, "PNG")
            (folder / f"sample_{number}.png").write_bytes(buffer.getvalue())
            lines.append([folder.relative_to(level).as_posix(), f"sample_{number}.png", number, label, 1.0, 14, 4, 2])
        path = level / f"metadata/{first // 10}.npy"
        if as_array:
            np.save(path, np.array(lines))
        else:
            path.write_text("".join(" ".join(map(str, line)) + "\n" for line in lines))
    return root


def task_from(root: Path, **options: int) -> Pathfinder32:
    return Pathfinder32(CurveRules(), SIZES, root=str(root), **options)


# Dashes.


def test_a_dash_likes_to_go_on_straight_and_never_turns_back() -> None:
    table = strokes(1.0)
    angles = np.arctan2(*table.ring.T)
    headings = np.array([*np.radians(np.arange(-180, 180)), *angles])
    expected = np.maximum(np.cos(headings[:, None] - angles), 0) ** 2
    np.testing.assert_allclose(table.weights, expected, atol=1e-9)
    assert (table.weights[DEGREES:].diagonal() == 1).all()


def test_greater_continuity_makes_turns_rarer() -> None:
    assert (strokes(2.0).weights <= strokes(1.0).weights).all()
    assert strokes(2.0).weights.sum() < strokes(1.0).weights.sum() / 1.5


def test_every_dash_lies_within_its_own_room() -> None:
    table = strokes(1.0)
    bright = table.lines > 60
    assert bright.any(axis=1).all()
    assert (table.halos[bright] > 200).all()


def test_a_dash_has_the_same_ink_wherever_it_points() -> None:
    # Diagonal ones are shorter: their ends are rounded up to pixels.
    ink = strokes(1.0).lines.sum(axis=1) / FULL
    assert 1.0 < ink.min() < ink.max() < 2.0


def test_a_dot_has_the_area_of_its_disc() -> None:
    assert dot().sum() / FULL == pytest.approx(math.pi * 1.5**2, rel=0.1)


# Pictures.


def test_pictures_use_the_whole_range_and_half_of_them_are_positive(drawn: tuple[np.ndarray, np.ndarray]) -> None:
    pictures, labels = drawn
    assert (pictures.shape, pictures.dtype, set(labels.tolist())) == ((1000, 32, 32), np.uint8, {0, 1})
    assert (pictures.max(axis=(1, 2)) == 255).all()
    assert (pictures.min(axis=(1, 2)) == 0).all()
    assert binomtest(int(labels.sum()), 1000).pvalue > 0.01
    assert len({picture.tobytes() for picture in pictures}) == 1000


def test_a_seed_draws_the_same_pictures_on_every_machine() -> None:
    pictures, labels = draw_pictures(CurveRules(), 20, Draws(0))
    digest = hashlib.sha256(pictures.tobytes() + labels.astype(np.uint8).tobytes())
    assert digest.hexdigest() == "9ede1eb3cc6720b0e12ea76c783182cff55831eee001e564666e8bf69c9a44c4"


def test_dots_of_a_positive_picture_are_as_far_apart_as_one_curve_is_long(monkeypatch: pytest.MonkeyPatch) -> None:
    # Three almost straight dashes reach 5 to 14 pixels far; the ends of two curves lie nearer and further than that.
    monkeypatch.setattr(pathfinder_pictures, "DISTRACTOR_DASHES", 0)
    pictures, labels = draw_pictures(CurveRules(contour_length=3, continuity=2.0), 400, Draws(0))
    apart, joined = dot_distances(pictures, labels)
    assert min(len(apart), len(joined)) > 100
    assert 5 < min(joined) < max(joined) < 14
    assert np.quantile(apart, 0.1) < 5 < 14 < np.quantile(apart, 0.9)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"contour_length": 2}, "contour_length must be >= 3, got 2"),
        ({"continuity": 0.0}, "continuity must be > 0, got 0.0"),
    ],
)
def test_rules_out_of_range_are_refused(options: dict[str, float], message: str) -> None:
    with pytest.raises(ValueError, match=f"^{re.escape(message)}$"):
        CurveRules(**options)


def test_rules_that_let_no_curve_grow_are_refused_in_time(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pathfinder_pictures, "TRIED_BEFORE_GIVING_UP", pathfinder_pictures.BATCH)
    with pytest.raises(ValueError, match=r"^rules must let curves grow, but of 2,048 pairs only 0 found room for "):
        draw_pictures(CurveRules(contour_length=60), 1, Draws(0))


# The task.


def test_splits_are_drawn_and_kept() -> None:
    task = Pathfinder32(CurveRules(), SIZES, max_train_rows=12)
    assert isinstance(task, Task)
    task.check()
    data = task.load()
    assert (len(data.train), [(split, len(rows)) for split, rows in data.validation.items()]) == (
        12,
        [("test", 5), ("validation", 5)],
    )
    assert data.available == {"train": 20, "test": 5, "validation": 5}
    assert (data.num_labels, data.metrics, data.label_names) == (2, ("accuracy",), ("apart", "joined"))
    assert data.fingerprint == task.load().fingerprint
    assert data.fingerprint == "b3351ff338dc56d8e2b052e1f2ec1ae04e983a14a387f2dd619cd38badb6a93b"
    encoder = task.encoder(None, task.max_length)
    assert isinstance(encoder, Encoder)
    batch = encoder.collate(encoder.encode(data.train)[:3])
    assert {name: tuple(value.shape) for name, value in batch.items()} == {"input_ids": (3, 1024), "labels": (3,)}
    assert bytes(batch["input_ids"][2].tolist()) == data.train[2].symbols
    assert (encoder.vocab_size, encoder.lengths(data.train)) == (256, [1024] * 12)
    assert encoder.position_names(data.train[0])[31:34] == ["0,31", "1,0", "1,1"]


def test_a_model_shorter_than_the_picture_is_refused() -> None:
    task = Pathfinder32(CurveRules(), SIZES)
    with pytest.raises(ValueError, match=r"^max_length must be >= 1024, the longest row, got 1000$"):
        task.encoder(None, 1000).encode([SequenceExample(bytes(1024), 0)])


@pytest.mark.parametrize("as_array", [False, True], ids=["text", "numpy"])
def test_the_files_of_the_release_are_read(
    tmp_path: Path, drawn: tuple[np.ndarray, np.ndarray], as_array: bool
) -> None:
    pictures, labels = drawn[0][:120], drawn[1][:120].tolist()
    task = task_from(write_release(tmp_path / "pathfinder32", [*pictures], labels, as_array))
    task.check()
    data = task.load()
    assert data.available == {"train": 96, "test": 12, "validation": 12}
    assert data.sources["test"] == f"pathfinder32/{LEVEL}"
    ours = {picture.tobytes(): label for picture, label in zip(pictures, labels, strict=True)}
    rows = [row for split in (data.train, *data.validation.values()) for row in split]
    assert {row.symbols: row.label for row in rows} == ours
    assert [row.symbols for row in data.train] == [
        picture.tobytes() for picture in pictures if picture.tobytes() in {row.symbols for row in data.train}
    ]


def test_an_empty_picture_is_left_out_and_told(tmp_path: Path, drawn: tuple[np.ndarray, np.ndarray]) -> None:
    root = write_release(tmp_path / "pathfinder32", [*drawn[0][:20]], [0, 1] * 10)
    (root / LEVEL / "imgs/1/sample_3.png").write_bytes(b"")
    data = task_from(root).load()
    assert sum(data.available.values()) == 19
    assert data.missing == (f"1 of 20 rows of pathfinder32/{LEVEL} (empty)",)


def test_the_number_of_dashes_names_the_folder(tmp_path: Path) -> None:
    (tmp_path / "curv_contour_length_9").mkdir()
    with pytest.raises(ValueError, match=r"^root must hold curv_contour_length_9/metadata/\*\.npy, got none in "):
        Pathfinder32(CurveRules(contour_length=9), SIZES, root=str(tmp_path)).check()
    with pytest.raises(ValueError, match=r"^contour_length must be one of 6, 9, 14 to read root, got 7$"):
        Pathfinder32(CurveRules(contour_length=7), SIZES, root=str(tmp_path)).check()


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("imgs/0 sample_0.png 0", ":2: line must have at least 4 columns, got 3"),
        ("imgs/0 sample_0.png 0 2 1.0", ":2: label must be 0 or 1, got '2'"),
        ("imgs/0 sample_9.png 0 1 1.0", ":2: sample_9.png must be a readable picture ([Errno 2] "),
        ("imgs/0 broken.png 0 1 1.0", ":2: broken.png must be a readable picture (not an image file "),
        ("imgs/0 wide.png 0 1 1.0", ":2: wide.png must be 32x32 gray, got 33x32 of mode L"),
        ("imgs/0 colour.png 0 1 1.0", ":2: colour.png must be 32x32 gray, got 32x32 of mode RGB"),
    ],
)
def test_a_bad_line_or_picture_is_refused_with_file_and_line(tmp_path: Path, line: str, message: str) -> None:
    root = write_release(tmp_path / "pathfinder32", [np.ones((32, 32), dtype=np.uint8)], [1])
    folder = root / LEVEL / "imgs/0"
    (folder / "broken.png").write_bytes(b"no picture")
    Image.new("L", (33, 32)).save(folder / "wide.png")
    Image.new("RGB", (32, 32)).save(folder / "colour.png")
    path = root / LEVEL / "metadata/0.npy"
    path.write_text(path.read_text() + line + "\n")
    with pytest.raises(ValueError, match=f"^{re.escape(str(path) + message)}") as caught:
        task_from(root).load()
    assert "\n" not in str(caught.value)


def test_a_list_that_is_no_list_is_refused(tmp_path: Path) -> None:
    root = write_release(tmp_path / "pathfinder32", [np.ones((32, 32), dtype=np.uint8)], [1])
    np.save(root / LEVEL / "metadata/1.npy", np.array([None, {}]), allow_pickle=True)
    with pytest.raises(ValueError, match=r"1\.npy must be a readable list, got Object arrays cannot be loaded"):
        task_from(root).check()


# Real data.


@pytest.mark.skipif(not SHARED.is_dir(), reason="pathfinder-32 is not in ../shared/data")
def test_ours_cannot_be_told_from_a_sample_of_the_published_generator(drawn: tuple[np.ndarray, np.ndarray]) -> None:
    files = [np.load(SHARED / f"hard_{split}.npz") for split in ("train", "val")]
    theirs = np.concatenate([file["x"] for file in files]), np.concatenate([file["y"] for file in files])
    # Gray values: the distance of the two histograms is that of two halves of one sample.
    ours, sample = (np.bincount(pictures.ravel(), minlength=256) / pictures.size for pictures, _ in (drawn, theirs))
    assert np.abs(ours - sample).sum() / 2 < 0.02
    # Ink of a picture, which counts dashes.
    assert ks_2samp(*((pictures > 60).sum(axis=(1, 2)) for pictures, _ in (drawn, theirs))).pvalue > 0.01
    # Where it lies.
    where = [(pictures > 60).mean(axis=0) for pictures, _ in (drawn, theirs)]
    assert np.corrcoef(where[0].ravel(), where[1].ravel())[0, 1] > 0.95
    # How far the dots are apart, for either label.
    for mine, other in zip(dot_distances(*drawn), dot_distances(*theirs), strict=True):
        assert min(len(mine), len(other)) > 200
        assert ks_2samp(mine, other).pvalue > 0.01
