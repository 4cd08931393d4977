import gzip
import itertools
import json
import re
from pathlib import Path
from typing import Any

import datasets
import pytest

from mimicry.data.batches import Encoder
from mimicry.data.lra.sequences import SequenceExample
from mimicry.data.lra.texts import LraText, read_file
from mimicry.data.task import Task

SHARED = Path(__file__).resolve().parents[5] / "shared/data/imdb"
ROWS = [{"id": "a", "label": 1, "text": "Très <br />bien"}, {"id": "b", "label": 0, "text": 'bad\n"film"'}]


def write_folder(root: Path, rows: list[Any] | None = None, packed: bool = False) -> Path:
    root.mkdir(exist_ok=True)
    for split in ("train", "test"):
        lines = "".join(json.dumps(row) + "\n" for row in (ROWS if rows is None else rows)).encode()
        path = root / f"{split}.jsonl"
        path.write_bytes(lines)
        if packed:
            path.with_name(path.name + ".gz").write_bytes(gzip.compress(lines))
            path.unlink()
    return root


@pytest.mark.parametrize("packed", [False, True], ids=["plain", "gz"])
def test_reviews_are_read_as_bytes_with_their_markup(tmp_path: Path, packed: bool) -> None:
    task = LraText(root=str(write_folder(tmp_path / "imdb", packed=packed)))
    assert isinstance(task, Task)
    task.check()
    data = task.load()
    assert list(data.train) == [
        SequenceExample(b"Tr\xc3\xa8s <br />bien", 1),
        SequenceExample(b'bad\n"film"', 0),
    ]
    assert list(data.validation) == ["test"]
    assert (data.num_labels, data.metrics, data.label_names) == (2, ("accuracy",), ("negative", "positive"))
    assert data.sources["test"] == f"imdb/test.jsonl{'.gz' * packed}"


def test_batches_hold_the_first_bytes_each_one_more_than_its_value(tmp_path: Path) -> None:
    task = LraText(root=str(write_folder(tmp_path / "imdb")), max_length=12)
    encoder = task.encoder(None, 4000)
    assert isinstance(encoder, Encoder)
    rows = task.load().train
    batch = encoder.collate(encoder.encode(rows)[:2])
    assert batch["input_ids"].tolist() == [
        [byte + 1 for byte in b"Tr\xc3\xa8s <br />"],
        [byte + 1 for byte in b'bad\n"film"'] + [0, 0],
    ]
    assert batch["attention_mask"].tolist() == [[1] * 12, [1] * 10 + [0, 0]]
    assert batch["labels"].tolist() == [1, 0]
    assert (encoder.vocab_size, encoder.max_length, encoder.lengths(rows)) == (257, 12, [12, 10])
    assert encoder.position_names(rows[0]) == ["T", "r", "\\xc3", "\\xa8", "s", " ", "<", "b", "r", " ", "/", ">"]


def test_a_shorter_model_cuts_earlier(tmp_path: Path) -> None:
    task = LraText(root=str(write_folder(tmp_path / "imdb")))
    assert task.encoder(None, 3).collate(task.load().train[:2])["input_ids"].shape == (2, 3)


def test_the_hub_s_layout_is_read_from_a_local_copy(tmp_path: Path) -> None:
    root = tmp_path / "imdb"
    root.mkdir()
    for split in ("train", "test"):
        table = datasets.Dataset.from_list([{"text": f"{split} {index}", "label": index % 2} for index in range(3)])
        table.to_parquet(root / f"{split}-00000-of-00001.parquet")
    data = LraText(hub=str(root)).load()
    assert list(data.validation["test"]) == [SequenceExample(f"test {index}".encode(), index % 2) for index in range(3)]
    assert data.sources == {"train": "imdb@train", "test": "imdb@test"}
    assert LraText(hub=str(root)).load().fingerprint == data.fingerprint


def test_a_hub_that_has_no_such_data_set_is_one_line() -> None:
    with pytest.raises(
        (ValueError, ConnectionError), match=r"^cannot read lra_text of the data set 'no/where': "
    ) as caught:
        LraText(hub="no/where").load()
    assert "\n" not in str(caught.value)


def test_a_table_without_the_columns_is_refused(tmp_path: Path) -> None:
    root = tmp_path / "imdb"
    root.mkdir()
    for split in ("train", "test"):
        datasets.Dataset.from_dict({"review": ["x"], "label": [0]}).to_parquet(root / f"{split}.parquet")
    with pytest.raises(ValueError, match=r"^imdb@train must have the column 'text', got "):
        LraText(hub=str(root)).load()


def test_an_empty_review_is_left_out_and_told(tmp_path: Path) -> None:
    root = write_folder(tmp_path / "imdb", [*ROWS, {"text": "", "label": 0}])
    data = LraText(root=str(root)).load()
    assert data.available == {"train": 2, "test": 2}
    assert data.missing == ("1 of 3 rows of imdb/train.jsonl (empty)", "1 of 3 rows of imdb/test.jsonl (empty)")


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ([], ":3: line must be a JSON object with text and label"),
        ({"text": "x"}, ":3: line must be a JSON object with text and label"),
        ({"text": None, "label": 0}, ":3: text must be a string, got NoneType"),
        ({"text": "x", "label": -1}, ":3: label must be 0 or 1, got -1"),
        ({"text": "x", "label": "1"}, ":3: label must be 0 or 1, got '1'"),
        ({"text": "x", "label": True}, ":3: label must be 0 or 1, got True"),
        ({"text": "x", "label": "1" * 5000}, ":3: label must be 0 or 1, got '111111111111...1111111111111'"),
        ({"text": "a\ud800b", "label": 0}, ":3: text must be encodable as UTF-8, got '\\ud800' at position 1"),
    ],
)
def test_a_bad_row_is_refused_with_file_and_line(tmp_path: Path, row: Any, message: str) -> None:
    root = write_folder(tmp_path / "imdb", [*ROWS, row])
    task = LraText(root=str(root))
    task.check()
    with pytest.raises(ValueError, match=f"^{re.escape(str(root / 'train.jsonl') + message)}$"):
        task.load()


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("train.jsonl", b"{\n", r"train\.jsonl:1: line must be a JSON object, got "),
        ("train.jsonl", b'{"text": "\xff"}\n', r"train\.jsonl:1 must be a readable UTF-8 file, got UnicodeDecodeError"),
        ("train.jsonl.gz", b"plain", r"train\.jsonl\.gz must be a readable UTF-8 file, got BadGzipFile"),
    ],
)
def test_a_broken_file_is_refused_in_the_check(tmp_path: Path, name: str, content: bytes, message: str) -> None:
    root = write_folder(tmp_path / "imdb")
    (root / "train.jsonl").unlink()
    (root / name).write_bytes(content)
    with pytest.raises(ValueError, match=message) as caught:
        LraText(root=str(root)).check()
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("line", "reason"),
    [('{"text": "x", "label": ' + "1" * 5000 + "}", "Exceeds the limit "), ("[" * 100_000, "maximum recursion depth ")],
    ids=["digits", "brackets"],
)
def test_json_beyond_what_python_reads_is_refused_with_file_and_line(tmp_path: Path, line: str, reason: str) -> None:
    root = write_folder(tmp_path / "imdb")
    with (root / "train.jsonl").open("a") as file:
        file.write(line + "\n")
    expected = f"{root / 'train.jsonl'}:3: line must be a JSON object that can be read, got {reason}"
    with pytest.raises(ValueError, match=f"^{re.escape(expected)}") as caught:
        LraText(root=str(root)).load()
    assert len(str(caught.value).removeprefix(str(root))) < 250


def test_blank_lines_are_none_at_the_end_and_refused_before_it(tmp_path: Path) -> None:
    root = write_folder(tmp_path / "imdb")
    path = root / "train.jsonl"
    rows = path.read_bytes()
    path.write_bytes(rows + b"\n \r\n\n")
    assert len(LraText(root=str(root)).load().train) == len(ROWS)
    path.write_bytes(rows + b"\n\n" + rows)
    expected = f"{path}:3: line must be a JSON object, got a blank line before the last row"
    with pytest.raises(ValueError, match=f"^{re.escape(expected)}$"):
        LraText(root=str(root)).load()
    path.write_bytes(b"\n")
    with pytest.raises(ValueError, match=r"train\.jsonl must have at least one row, got 0$"):
        LraText(root=str(root)).check()


def test_an_empty_file_is_refused(tmp_path: Path) -> None:
    root = write_folder(tmp_path / "imdb", [])
    with pytest.raises(ValueError, match=r"train\.jsonl must have at least one row, got 0$"):
        LraText(root=str(root)).check()


def test_a_folder_without_a_file_is_refused(tmp_path: Path) -> None:
    root = write_folder(tmp_path / "imdb")
    (root / "test.jsonl").unlink()
    with pytest.raises(ValueError, match=r"^root must hold a file to train on and one to score on, got "):
        LraText(root=str(root)).check()


def test_a_length_below_one_is_refused() -> None:
    with pytest.raises(ValueError, match=r"^max_length must be >= 1, got 0$"):
        LraText(max_length=0)


@pytest.mark.skipif(not SHARED.is_dir(), reason="imdb is not in ../shared/data")
def test_real_reviews_are_read() -> None:
    rows = list(itertools.islice(read_file(SHARED / "test.jsonl.gz"), 1000))
    assert {row.label for row in rows} == {0, 1}
    assert 1000 < sum(len(row.symbols) for row in rows) / 1000 < 1600
    assert any(b"<br />" in row.symbols for row in rows)
