import os
import re
from pathlib import Path

import platformdirs
import pytest

from mimicry import assets
from mimicry.data.movie_reviews import MovieReviews, parse_reviews
from mimicry.data.task import Example


def write(path: Path, *rows: tuple[str, str]) -> Path:
    lines = (f"{index}\t{rating}\t{text}\r\n" for index, (rating, text) in enumerate(rows, start=1))
    path.write_bytes("".join(lines).encode())
    return path


@pytest.fixture
def small_asset(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """2,100 clear snippets, a third of them negative, in place of the download."""
    rows = [("-1.5" if index % 3 == 0 else "2.0", f"snippet {index}") for index in range(2100)]
    write(tmp_path / "movie_reviews.tsv", *rows)
    monkeypatch.setattr(assets, "fetch", lambda asset: tmp_path)


def test_the_label_is_the_sign_of_the_rating_and_neutral_rows_are_dropped(tmp_path: Path) -> None:
    ratings = ("4", "0.51", "0.5", "0", "-0.5", "-0.50001", "-4")
    path = write(tmp_path / "x.tsv", *((rating, f"caf\xe9 {rating}") for rating in ratings))
    assert parse_reviews(path) == [
        Example("caf\xe9 4", None, 1),
        Example("caf\xe9 0.51", None, 1),
        Example("caf\xe9 -0.50001", None, 0),
        Example("caf\xe9 -4", None, 0),
    ]


@pytest.mark.parametrize("rating", ["good", "", "nan", "4.1", "-4.1"])
def test_a_bad_rating_is_refused_with_file_and_line(tmp_path: Path, rating: str) -> None:
    path = write(tmp_path / "x.tsv", ("1", "fine"), (rating, "bad"))
    message = f"{path}:2: rating must be a number from -4 to 4, got {rating!r}"
    with pytest.raises(ValueError, match=f"^{re.escape(message)}$"):
        parse_reviews(path)


def test_a_row_without_a_text_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "x.tsv"
    path.write_text("1\t2.0\n")
    with pytest.raises(ValueError, match=r"x\.tsv:1: row must have 3 columns, got 2$"):
        parse_reviews(path)


@pytest.mark.usefixtures("small_asset")
def test_the_split_is_fixed_disjoint_and_stratified() -> None:
    task = MovieReviews()
    task.check()
    data = task.load()
    assert data == task.load()
    assert (len(data.train), len(data.validation["validation"])) == (100, 2000)
    assert not set(data.train) & set(data.validation["validation"])
    assert sum(row.label for row in data.validation["validation"]) == 1333
    assert (data.name, data.num_labels, data.metrics) == ("movie_reviews", 2, ("accuracy",))
    assert set(data.sources) == {"train", "validation"}


@pytest.mark.usefixtures("small_asset")
def test_the_limits_cut_their_split() -> None:
    data = MovieReviews(max_train_rows=10, max_validation_rows=20).load()
    assert (len(data.train), len(data.validation["validation"])) == (10, 20)


def test_a_limit_below_one_is_refused() -> None:
    with pytest.raises(ValueError, match=r"^max_validation_rows must be >= 1 or null, got 0$"):
        MovieReviews(max_validation_rows=0)


def cached_asset() -> Path:
    cache = Path(os.environ.get("MIMICRY_CACHE") or platformdirs.user_cache_dir("mimicry"))
    return cache / f"{assets.MOVIE_REVIEWS.name}-{assets.MOVIE_REVIEWS.sha256[:16]}" / "movie_reviews.tsv"


@pytest.mark.skipif(not cached_asset().is_file(), reason="the movie reviews are not in the asset cache")
def test_the_real_reviews_have_the_counts_we_report() -> None:
    examples = parse_reviews(cached_asset())
    assert [sum(row.label == label for row in examples) for label in (1, 0)] == [4982, 5061]
    data = MovieReviews().load()
    assert (len(data.train), len(data.validation["validation"])) == (8043, 2000)
