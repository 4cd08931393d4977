import re
from pathlib import Path

import pytest

from mimicry.data.batches import Encoder, TaskBatches
from mimicry.data.lra.retrieval import LraRetrieval
from mimicry.data.lra.sequences import SequenceExample
from mimicry.data.task import Task

FILES = ("new_aan_pairs.train.tsv", "new_aan_pairs.eval.tsv", "new_aan_pairs.test.tsv")
ROWS = '1.0\tW01-1\tP02-7\tParsing "free\ttext\n0.0\tC90-2\tW01-1\tété\tA much longer text\n'


def write_release(root: Path, rows: str = ROWS, files: tuple[str, ...] = FILES) -> Path:
    root.mkdir()
    for file in files:
        (root / file).write_text(rows, encoding="utf-8")
    return root


def test_the_files_of_the_release_are_read_as_pairs_of_bytes(tmp_path: Path) -> None:
    task = LraRetrieval(root=str(write_release(tmp_path / "tsv_data")))
    assert isinstance(task, Task)
    task.check()
    data = task.load()
    assert list(data.train) == [
        SequenceExample(b'Parsing "free', 1, b"text"),
        SequenceExample("été".encode(), 0, b"A much longer text"),
    ]
    assert list(data.validation) == ["test", "validation"]
    assert data.sources["validation"] == "tsv_data/new_aan_pairs.eval.tsv"
    assert (data.num_labels, data.metrics, data.available["train"]) == (2, ("accuracy",), 2)


def test_each_paper_is_padded_and_masked_on_its_own(tmp_path: Path) -> None:
    task = LraRetrieval(root=str(write_release(tmp_path / "tsv_data")), max_length=8)
    rows = task.load().train
    encoder = task.encoder(None, 4000)
    assert isinstance(encoder, Encoder)
    batch = encoder.collate(encoder.encode(rows)[:2])
    assert batch["input_ids"].tolist() == [
        [byte + 1 for byte in b"Parsing "],
        [byte + 1 for byte in "été".encode()] + [0, 0, 0],
    ]
    assert batch["attention_mask"].tolist() == [[1] * 8, [1] * 5 + [0] * 3]
    assert batch["pair_input_ids"].tolist() == [
        [byte + 1 for byte in b"text"] + [0] * 4,
        [byte + 1 for byte in b"A much l"],
    ]
    assert batch["pair_attention_mask"].sum(dim=1).tolist() == [4, 8]
    assert batch["labels"].tolist() == [1, 0]
    assert (encoder.lengths(rows), encoder.vocab_size) == ([12, 13], 257)


def test_texts_are_cut_before_they_are_kept(tmp_path: Path) -> None:
    root = write_release(tmp_path / "tsv_data")
    assert [row.pair for row in LraRetrieval(root=str(root), max_length=6).load().train] == [b"text", b"A much"]
    assert [row.pair for row in LraRetrieval(root=str(root), max_length=3).load().train] == [b"tex", b"A m"]


def test_pairs_are_dealt_out_by_their_lengths_together(tmp_path: Path) -> None:
    rows = "".join(f"{i % 2}\ta\tb\t{'x' * (i + 1)}\t{'y' * 3}\n" for i in range(9))
    task = LraRetrieval(root=str(write_release(tmp_path / "tsv_data", rows)))
    data = task.load()
    encoder = task.encoder(None, 5)
    batches = TaskBatches(encoder, data.train, data.train, [], data.validation, seed=0)
    loader = batches.training("train", batch_size=3, max_rows=6)
    assert [batch["pair_input_ids"].shape for batch in loader] == [(3, 3), (3, 3)]
    assert batches.tokens(batches.measuring(data.train)) == sum(min(i + 1, 5) + 3 for i in range(9))


def test_a_pair_with_an_empty_text_is_left_out_and_told(tmp_path: Path) -> None:
    root = write_release(tmp_path / "tsv_data", ROWS + "1.0\ta\tb\t\ttext\n0\ta\tb\ttext\t\n")
    data = LraRetrieval(root=str(root)).load()
    assert len(data.train) == 2
    assert data.missing[0] == "2 of 4 rows of tsv_data/new_aan_pairs.train.tsv (empty)"


def test_missing_files_are_told_or_refused(tmp_path: Path) -> None:
    partial = LraRetrieval(root=str(write_release(tmp_path / "partial", files=FILES[:2]))).load()
    assert list(partial.validation) == ["validation"]
    assert partial.missing == ("test (no new_aan_pairs.test.tsv in the folder)",)
    with pytest.raises(ValueError, match=r"^root must hold a file to train on and one to score on, got "):
        LraRetrieval(root=str(write_release(tmp_path / "none", files=FILES[1:]))).check()
    with pytest.raises(ValueError, match=r"^root must be a folder with new_aan_pairs\.train\.tsv \(set "):
        LraRetrieval().check()


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ("2.0\ta\tb\tc\td", "label must be one of 0.0, 1.0, 0, 1, got '2.0'"),
        ("1.0\ta\tb\tc", "row must have 5 columns, got 4"),
        ("1.0\ta\tb\tc\td\te", "row must have 5 columns, got 6"),
    ],
)
def test_a_bad_row_is_refused_with_file_and_line(tmp_path: Path, row: str, message: str) -> None:
    root = write_release(tmp_path / "tsv_data", ROWS + row + "\n")
    expected = f"{root / FILES[0]}:3: {message}"
    with pytest.raises(ValueError, match=f"^{re.escape(expected)}$"):
        LraRetrieval(root=str(root)).load()


def test_a_bad_first_row_is_refused_before_all_the_others_are_read(tmp_path: Path) -> None:
    root = write_release(tmp_path / "tsv_data", "label\tid1\tid2\ttext1\ttext2\n" + ROWS)
    with pytest.raises(ValueError, match=r"new_aan_pairs\.train\.tsv:1: label must be one of "):
        LraRetrieval(root=str(root)).check()


def test_a_length_below_one_is_refused() -> None:
    with pytest.raises(ValueError, match=r"^max_length must be >= 1, got 0$"):
        LraRetrieval(max_length=0)
