import gzip
import hashlib
import random
import re
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from scipy.stats import chisquare, ks_2samp

from mimicry.data.batches import Encoder
from mimicry.data.draws import Draws
from mimicry.data.lra.generated import SplitSizes
from mimicry.data.lra.listops import ListOps, read_file
from mimicry.data.lra.listops_language import OPERATORS, TOKENS, apply_operators, evaluate, read_source
from mimicry.data.lra.listops_trees import TreeRules, draw_trees
from mimicry.data.lra.sequences import SequenceExample
from mimicry.data.task import Task

SHARED = Path(__file__).resolve().parents[5] / "shared/data/listops"
GOLDEN = "a31d151bfbfd7ec98f5f572035ab586ea5deb690f95e6e163bdd5c97de2836f9"
SMALL = TreeRules(max_depth=4, max_args=4, min_length=10, max_length=60)
SIZES = SplitSizes(train=60, validation=10, test=10)
HEADER = "Source\tTarget\n"


def sample_tree(depth: int, rules: TreeRules) -> list[str]:
    """One tree, drawn the slow and obvious way."""
    if depth == rules.max_depth or random.random() > 0.25:
        return [str(random.randrange(10))]
    children = [sample_tree(depth + 1, rules) for _ in range(random.randint(2, rules.max_args))]
    return [random.choice(OPERATORS), *(token for child in children for token in child), "]"]


def write_release(root: Path, rows: str, splits: tuple[str, ...] = ("train", "val", "test")) -> Path:
    root.mkdir()
    for split in splits:
        (root / f"basic_{split}.tsv").write_text(HEADER + rows)
    return root


# The language.


@pytest.mark.parametrize(
    ("source", "value"),
    [
        ("7", 7),
        ("[MAX 2 9 [MIN 4 7 ] 0 ]", 9),
        ("[MIN 3 [MAX 1 2 ] 5 ]", 2),
        ("[SM 9 8 7 ]", 4),
        ("[MED 1 9 4 ]", 4),
        ("[MED 1 2 ]", 1),
        ("[MED 9 0 4 7 ]", 5),
        ("( ( ( ( [MAX 2 ) 9 ) 3 ) ] )", 9),
        ("( ( ( [SM ( ( ( [MED 8 ) 3 ) ] ) ) 6 ) ] )", 1),
    ],
)
def test_an_expression_has_its_value(source: str, value: int) -> None:
    assert evaluate(read_source(source)) == value


def test_parentheses_are_dropped_and_square_brackets_kept() -> None:
    symbols = read_source("( ( ( ( [SM 1 ) ( ( ( [MIN 2 ) 3 ) ] ) ) 4 ) ] )")
    assert [TOKENS[symbol] for symbol in symbols] == ["[SM", "1", "[MIN", "2", "3", "]", "4", "]"]


@pytest.mark.parametrize(
    ("source", "message"),
    [
        ("[MAX 1 2", "row must be one closed expression, got 1 open operators"),
        ("1 2", "row must be one closed expression, got 2 expressions"),
        ("", "row must be one closed expression, got 0 expressions"),
        ("[MAX ]", "every ] must close an operator with arguments, but token 1 closes an operator without arguments"),
        ("1 ]", "every ] must close an operator with arguments, but token 1 closes nothing"),
        ("[FIRST 1 2 ]", f"token must be one of {' '.join(TOKENS)}, got '[FIRST'"),
    ],
)
def test_what_is_no_expression_is_refused(source: str, message: str) -> None:
    with pytest.raises(ValueError, match=f"^{re.escape(message)}$"):
        evaluate(read_source(source))


def test_many_operators_at_once_have_the_values_of_each_alone() -> None:
    draws = Draws(1)
    args = 1 + draws.integers(9, 500)
    operators = draws.integers(len(OPERATORS), 500)
    values = draws.integers(10, int(args.sum()))
    results = apply_operators(operators, values, np.cumsum(args) - args)
    for operator, group, result in zip(operators, np.split(values, np.cumsum(args)[:-1]), results, strict=True):
        tokens = [OPERATORS[operator], *map(str, group), "]"]
        assert evaluate(read_source(" ".join(tokens))) == result


# Random trees.


def test_drawn_trees_keep_the_rules_and_have_their_values() -> None:
    trees, values = draw_trees(SMALL, 500, Draws(0))
    assert len(set(trees)) == 500
    assert [evaluate(tree) for tree in trees] == values
    assert all(10 < len(tree) < 60 for tree in trees)
    depths, args = set(), set()
    for tree in trees:
        open_args = []
        for symbol in tree:
            if TOKENS[symbol] == "]":
                args.add(open_args.pop())
                continue
            if open_args:
                open_args[-1] += 1
            if TOKENS[symbol] in OPERATORS:
                open_args.append(0)
                depths.add(len(open_args))
    assert (max(depths), args) == (3, {2, 3, 4})


def test_drawn_trees_are_as_long_as_those_drawn_one_by_one() -> None:
    random.seed(0)
    lengths: list[int] = []
    while len(lengths) < 2000:
        length = len(sample_tree(1, SMALL))
        lengths += [length] * (10 < length < 60)
    trees, _ = draw_trees(SMALL, 2000, Draws(0))
    assert ks_2samp(lengths, [len(tree) for tree in trees]).pvalue > 0.01


def test_digits_and_operators_are_drawn_evenly() -> None:
    trees, _ = draw_trees(TreeRules(), 200, Draws(0))
    counts = Counter(b"".join(trees))
    assert chisquare([counts[digit] for digit in range(10)]).pvalue > 0.01
    assert chisquare([counts[10 + operator] for operator in range(4)]).pvalue > 0.01
    assert sum(counts[10 + operator] for operator in range(4)) == counts[TOKENS.index("]")]


def test_a_seed_draws_the_same_trees_on_every_machine() -> None:
    trees, _ = draw_trees(TreeRules(), 50, Draws(0, 0, 0))
    assert (
        hashlib.sha256(b"\n".join(trees)).hexdigest()
        == "a31d151bfbfd7ec98f5f572035ab586ea5deb690f95e6e163bdd5c97de2836f9"
    )
    assert draw_trees(TreeRules(), 50, Draws(0, 0, 1))[0] != trees


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"max_depth": 1}, "max_depth must be >= 2, got 1"),
        ({"max_args": 1}, "max_args must be >= 2, got 1"),
        ({"min_length": 0}, "min_length must be >= 1, got 0"),
        ({"max_length": 501}, "max_length must be >= min_length + 2 = 502, got 501"),
        ({"max_depth": 3, "max_args": 5}, "min_length must be < 37, the longest tree, got 500"),
    ],
)
def test_rules_that_no_tree_can_keep_are_refused(options: dict[str, int], message: str) -> None:
    with pytest.raises(ValueError, match=f"^{re.escape(message)}$"):
        TreeRules(**options)


def test_rules_that_hardly_any_tree_keeps_are_refused_in_time() -> None:
    rules = TreeRules(max_depth=3, max_args=10, min_length=100, max_length=102)
    with pytest.raises(ValueError, match=r"^rules must leave enough different trees, but of 163,840 drawn only 0 had"):
        draw_trees(rules, 1, Draws(0))


# The task.


def test_splits_are_drawn_whole_and_share_no_tree() -> None:
    task = ListOps(SMALL, SIZES)
    assert isinstance(task, Task)
    task.check()
    data = task.load()
    assert (len(data.train), {split: len(rows) for split, rows in data.validation.items()}) == (
        60,
        {"test": 10, "validation": 10},
    )
    trees = [row.symbols for rows in (data.train, *data.validation.values()) for row in rows]
    assert len(set(trees)) == 80
    assert all(evaluate(row.symbols) == row.label for row in data.train)
    assert (data.name, data.num_labels, data.metrics, data.missing) == ("listops", 10, ("accuracy",), ())
    assert data.sources["train"] == "drawn with seed 0"
    assert data.fingerprint == "f957d299451c703e1ac36f57596a0d727a13760e82e74c69126be112b8744054"


def test_another_seed_draws_other_rows() -> None:
    assert ListOps(SMALL, SIZES, seed=1).load().fingerprint != ListOps(SMALL, SIZES).load().fingerprint


def test_rows_are_drawn_once_and_read_from_the_cache_afterwards(cache: Path) -> None:
    before = ListOps(SMALL, SIZES).load().fingerprint
    (folder,) = {path.parent for path in cache.glob("*/train-*.arrow")}
    written = {path: path.stat().st_mtime_ns for path in folder.iterdir()}
    assert ListOps(SMALL, SIZES).load().fingerprint == before
    assert {path: path.stat().st_mtime_ns for path in folder.iterdir()} == written


def test_a_limit_keeps_the_first_rows_and_draws_no_chunk_beyond_them(
    cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("mimicry.data.lra.generated.CHUNK", 20)
    monkeypatch.setattr("os.cpu_count", lambda: 1)
    few = ListOps(SMALL, SIZES, max_train_rows=25, max_validation_rows=4).load()
    assert (len(few.train), len(few.validation["test"]), few.available["train"]) == (25, 4, 60)
    assert len(list(cache.glob("*/train-*.arrow"))) == 2
    whole = ListOps(SMALL, SIZES).load()
    assert len(list(cache.glob("*/train-*.arrow"))) == 3
    assert [few.train[index] for index in range(25)] == [whole.train[index] for index in range(25)]
    assert few.fingerprint != whole.fingerprint


def test_several_processes_draw_the_same_rows_as_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("mimicry.data.lra.generated.CHUNK", 30)
    fingerprints = set()
    for cores in (1, 2):
        monkeypatch.setattr("os.cpu_count", lambda cores=cores: cores)
        monkeypatch.setenv("MIMICRY_CACHE", str(tmp_path / str(cores)))
        fingerprints.add(ListOps(SMALL, SIZES).load().fingerprint)
    assert len(fingerprints) == 1


def test_a_tree_that_is_drawn_again_is_left_out_of_train() -> None:
    # There are 400 trees of an operator and two digits.
    rules = TreeRules(max_depth=2, max_args=2, min_length=3, max_length=5)
    data = ListOps(rules, SplitSizes(train=200, validation=50, test=50)).load()
    rows = [*data.train, *data.validation["test"], *data.validation["validation"]]
    assert len({row.symbols for row in rows}) == 300
    with pytest.raises(ValueError, match=r"^rules must leave at least 350 different trees for train, got \d+$"):
        ListOps(rules, SplitSizes(train=350, validation=100, test=100)).load()


@pytest.mark.parametrize("packed", [False, True], ids=["plain", "gz"])
def test_the_files_of_the_release_are_read(tmp_path: Path, packed: bool) -> None:
    root = write_release(tmp_path / "listops", "( ( ( [MAX 1 ) 2 ) ] )\t2\n( ( ( [SM 7 ) 4 ) ] )\t1\n")
    if packed:
        for path in [*root.iterdir()]:
            path.with_name(path.name + ".gz").write_bytes(gzip.compress(path.read_bytes()))
            path.unlink()
    task = ListOps(SMALL, SIZES, root=str(root))
    task.check()
    data = task.load()
    assert list(data.train) == [
        SequenceExample(read_source("[MAX 1 2 ]"), 2),
        SequenceExample(read_source("[SM 7 4 ]"), 1),
    ]
    assert list(data.validation) == ["test", "validation"]
    assert data.sources["test"] == f"listops/basic_test.tsv{'.gz' * packed}"
    assert data.available == {"train": 2, "test": 2, "validation": 2}


def test_a_missing_test_file_is_told_and_validation_takes_its_place(tmp_path: Path) -> None:
    root = write_release(tmp_path / "listops", "[MAX 1 2 ]\t2\n", splits=("train", "val"))
    data = ListOps(SMALL, SIZES, root=str(root)).load()
    assert list(data.validation) == ["validation"]
    assert data.missing == ("test (no basic_test.tsv in the folder)",)


@pytest.mark.parametrize("splits", [(), ("train",), ("val", "test")])
def test_a_folder_without_the_needed_files_is_refused(tmp_path: Path, splits: tuple[str, ...]) -> None:
    root = write_release(tmp_path / "listops", "[MAX 1 2 ]\t2\n", splits)
    with pytest.raises(ValueError, match=r"^root must hold a file to train on and one to score on, got .* without "):
        ListOps(SMALL, SIZES, root=str(root)).check()


def test_a_folder_that_is_not_there_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"^root must be an existing folder, got "):
        ListOps(SMALL, SIZES, root=str(tmp_path / "nowhere")).check()


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ("[MAX 1 2 ]\t3", "Target must be the value of Source, 2, got '3'"),
        ("[MAX 1 2\t2", "row must be one closed expression, got 1 open operators"),
        ("[MAX 1 x ]\t1", f"token must be one of {' '.join(TOKENS)}, got 'x'"),
        ("[MAX 1 2 ]", "row must have 2 columns, got 1"),
        (
            f"[MAX {'1 ' * 59}]\t1",
            "Source must have at most 60 tokens (raise task.rules.max_length), got 61",
        ),
    ],
)
def test_a_bad_row_is_refused_with_file_and_line_and_leaves_no_cache(
    tmp_path: Path, cache: Path, row: str, message: str
) -> None:
    root = write_release(tmp_path / "listops", f"[MAX 1 2 ]\t2\n{row}\n")
    expected = f"{root / 'basic_train.tsv'}:3: {message}"
    task = ListOps(SMALL, SIZES, root=str(root))
    task.check()
    with pytest.raises(ValueError, match=f"^{re.escape(expected)}$"):
        task.load()
    assert not list(cache.rglob("*.arrow"))


def test_a_row_may_be_as_long_as_the_rules_say_and_a_cached_one_is_measured_again(tmp_path: Path) -> None:
    root = write_release(tmp_path / "listops", f"[MAX {'1 ' * 58}]\t1\n")
    task = ListOps(SMALL, SIZES, root=str(root))
    rows = task.load().train
    assert len(task.encoder(None, task.max_length).encode(rows)[0].symbols) == 60
    shorter = TreeRules(max_depth=4, max_args=4, min_length=10, max_length=59)
    with pytest.raises(ValueError, match=r"\.tsv:2: Source must have at most 59 tokens .*, got 60$"):
        ListOps(shorter, SIZES, root=str(root)).load()


def test_a_changed_file_is_read_again(tmp_path: Path) -> None:
    root = write_release(tmp_path / "listops", "[MAX 1 2 ]\t2\n")
    before = ListOps(SMALL, SIZES, root=str(root)).load()
    (root / "basic_train.tsv").write_text(HEADER + "[MAX 1 2 ]\t2\n[MIN 1 2 ]\t1\n")
    after = ListOps(SMALL, SIZES, root=str(root)).load()
    assert (len(before.train), len(after.train)) == (1, 2)


def test_batches_are_padded_and_masked() -> None:
    rows = [SequenceExample(read_source("[MAX 0 9 ]"), 9), SequenceExample(read_source("[SM 1 2 3 ]"), 6)]
    task = ListOps(SMALL, SIZES)
    encoder = task.encoder(None, task.max_length)
    assert isinstance(encoder, Encoder)
    batch = encoder.collate(encoder.encode(rows))
    assert batch["input_ids"].tolist() == [[12, 1, 10, 15, 0], [14, 2, 3, 4, 15]]
    assert batch["attention_mask"].tolist() == [[1, 1, 1, 1, 0], [1, 1, 1, 1, 1]]
    assert batch["labels"].tolist() == [9, 6]
    assert (encoder.vocab_size, task.vocab_size, task.max_length) == (16, 16, 60)
    assert encoder.position_names(rows[0]) == ["[MAX", "0", "9", "]"]


def test_a_model_that_is_too_short_is_refused_since_a_cut_expression_has_no_value() -> None:
    task = ListOps(SMALL, SIZES)
    with pytest.raises(ValueError, match=r"^max_length must be >= \d+, the longest row, got 10$"):
        task.encoder(None, 10).encode(task.load().train)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"seed": -1}, "seed must be >= 0, got -1"),
        ({"max_train_rows": 0}, "max_train_rows must be >= 1 or null, got 0"),
    ],
)
def test_an_option_out_of_range_is_refused(options: dict[str, int], message: str) -> None:
    with pytest.raises(ValueError, match=f"^{re.escape(message)}$"):
        ListOps(SMALL, SIZES, **options)


def test_an_empty_split_is_refused() -> None:
    with pytest.raises(ValueError, match=r"^validation must be >= 1, got 0$"):
        SplitSizes(train=1, validation=0, test=1)


# Real data.


@pytest.mark.skipif(not SHARED.is_dir(), reason="listops is not in ../shared/data")
def test_every_row_of_a_published_sample_has_the_value_that_it_claims_and_ours_look_alike() -> None:
    # Reading a file evaluates every row and compares.
    theirs = [row for split in ("val", "train") for row in read_file(SHARED / f"basic_{split}.tsv.gz", 2000)]
    assert len(theirs) == 4000
    lengths = [len(row.symbols) for row in theirs]
    # The release's own bounds hold only without parentheses and with every closing bracket.
    assert 500 < min(lengths) < max(lengths) < 2000
    trees, values = draw_trees(TreeRules(), 2000, Draws(0))
    assert ks_2samp(lengths, list(map(len, trees))).pvalue > 0.01
    shares = np.bincount([row.label for row in theirs], minlength=10) / len(theirs)
    assert chisquare(np.bincount(values, minlength=10), shares * len(values)).pvalue > 0.01
