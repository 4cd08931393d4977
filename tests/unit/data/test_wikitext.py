import gzip
import re
from pathlib import Path

import datasets
import pytest
from language import padded_tokenizer

from mimicry.data.wikitext import WikiText, split_articles

FIRST = " \n = Cats = \n \n Cats sit . \n \n = = Mats = = \n \n On <unk> . \n \n"
SECOND = " = Dogs of = 3 = \n \n Dogs run . \n = 3 dogs = \n"
VALID = " \n = Birds = \n \n Birds fly . \n"


def write(path: Path, text: str) -> None:
    path.parent.mkdir(exist_ok=True)
    path.write_bytes(gzip.compress(text.encode()) if path.suffix == ".gz" else text.encode())


@pytest.mark.parametrize("suffix", [".tokens", ".tokens.gz", ".raw", ".raw.gz"])
@pytest.mark.parametrize("name", ["wikitext2", "wikitext103"])
def test_the_release_s_files_are_read_as_articles(tmp_path: Path, name: str, suffix: str) -> None:
    folder = tmp_path / "wiki"
    write(folder / f"wiki.train{suffix}", FIRST + SECOND)
    write(folder / f"wiki.valid{suffix}", VALID)
    task = WikiText(name, root=str(folder))
    task.check()
    data = task.load()
    assert (data.train, data.validation) == ((FIRST, SECOND), {"validation": (VALID,)})
    assert data.sources == {"train": f"wiki/wiki.train{suffix}", "validation": f"wiki/wiki.valid{suffix}"}
    assert (data.name, data.metrics, data.missing) == (name, ("nll_token", "nll_word"), ())


def test_articles_make_up_the_text_with_or_without_blank_lines() -> None:
    lines = (FIRST + SECOND).splitlines(keepends=True)
    assert split_articles(lines) == [FIRST, SECOND]
    without = [line for line in lines if not line.isspace()]
    articles = split_articles(without)
    assert "".join(articles) == "".join(without)
    assert articles[1].startswith(" = Dogs of = 3 = \n")
    assert split_articles([" \n", "\n"]) == []


def test_a_copy_with_line_ends_of_windows_is_the_same_text(tmp_path: Path) -> None:
    for folder, end in (("unix", "\n"), ("windows", "\r\n")):
        for split, text in (("train", FIRST + SECOND), ("valid", VALID)):
            write(tmp_path / folder / f"wiki.{split}.raw", text.replace("\n", end))
    data, unix = (WikiText("wikitext2", root=str(tmp_path / folder)).load() for folder in ("windows", "unix"))
    assert (data.train, data.validation) == ((FIRST, SECOND), {"validation": (VALID,)})
    assert data.fingerprint == unix.fingerprint


def test_a_missing_train_split_is_named_and_another_file_can_be_chosen(tmp_path: Path) -> None:
    folder = tmp_path / "wiki"
    write(folder / "wiki.valid.tokens", VALID)
    message = (
        f"train must have a file in {folder}, got no wiki.train.raw or wiki.train.raw.gz or wiki.train.tokens or "
        "wiki.train.tokens.gz; found no other file; choose one with task.train_file=FILE"
    )
    with pytest.raises(ValueError, match=f"^{re.escape(message)}$"):
        WikiText("wikitext103", root=str(folder)).check()
    write(folder / "wiki.train.head.raw", SECOND)
    with pytest.raises(ValueError, match=r"found wiki\.train\.head\.raw; choose one with task\.train_file=FILE$"):
        WikiText("wikitext103", root=str(folder)).check()
    write(tmp_path / "other" / "texts.txt", FIRST)
    for file, text in (("wiki.train.head.raw", SECOND), (str(tmp_path / "other" / "texts.txt"), FIRST)):
        task = WikiText("wikitext103", root=str(folder), train_file=file)
        task.check()
        data = task.load()
        assert data.train == (text,)
        source = "/".join((folder / file).parts[-2:])
        assert data.sources["train"] == source
        assert data.missing == (f"train (read from {source} instead)",)


def test_training_on_the_validation_file_is_refused(tmp_path: Path) -> None:
    write(tmp_path / "wiki.valid.raw", VALID)
    message = "each split must have a file of its own, got wiki.valid.raw for train, wiki.valid.raw for validation"
    with pytest.raises(ValueError, match=f"^{re.escape(message)}$"):
        WikiText("wikitext2", root=str(tmp_path), train_file="wiki.valid.raw").check()


@pytest.mark.parametrize("text", ["", " \n \n"])
def test_an_empty_split_is_refused(tmp_path: Path, text: str) -> None:
    write(tmp_path / "wiki.train.raw", text)
    write(tmp_path / "wiki.valid.raw", VALID)
    message = f"train split of wikitext2 must have at least one row, got 0 from {tmp_path.name}/wiki.train.raw"
    with pytest.raises(ValueError, match=f"^{re.escape(message)}$"):
        WikiText("wikitext2", root=str(tmp_path)).load()


def test_a_file_that_cannot_be_read_is_refused_before_anything_is_loaded(tmp_path: Path) -> None:
    write(tmp_path / "wiki.train.raw", FIRST)
    (tmp_path / "wiki.valid.raw.gz").write_bytes(b"no gzip")
    with pytest.raises(ValueError, match=r"wiki\.valid\.raw\.gz must be a readable UTF-8 file, got BadGzipFile"):
        WikiText("wikitext2", root=str(tmp_path)).check()
    (tmp_path / "wiki.valid.raw.gz").unlink()
    write(tmp_path / "wiki.valid.raw", "")
    with pytest.raises(ValueError, match=r"^validation split of wikitext2 must not be empty, got .*wiki\.valid\.raw"):
        WikiText("wikitext2", root=str(tmp_path)).check()


@pytest.mark.parametrize("suffix", [".tokens", ".tokens.gz"])
def test_a_line_that_is_no_utf8_is_named(tmp_path: Path, suffix: str) -> None:
    broken = FIRST.encode() + b"caf\xe9\n"
    (tmp_path / f"wiki.train{suffix}").write_bytes(gzip.compress(broken) if suffix.endswith(".gz") else broken)
    write(tmp_path / "wiki.valid.tokens", VALID)
    line = FIRST.count("\n") + 1
    with pytest.raises(ValueError, match=rf"wiki\.train\.\S+:{line} must be a readable UTF-8 file, got Unicode"):
        WikiText("wikitext2", root=str(tmp_path)).load()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"name": "wikitext3"}, "name must be one of wikitext2, wikitext103, got 'wikitext3'"),
        ({"train_file": "x.raw"}, "train_file needs root, the folder that holds it, got 'x.raw' alone"),
        ({"max_validation_rows": 0}, "max_validation_rows must be >= 1 or null, got 0"),
        ({"root": "/no/such/folder"}, "root must be a folder, got /no/such/folder"),
    ],
)
def test_a_bad_option_is_refused_at_once(options: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=f"^{re.escape(message)}$"):
        WikiText(**({"name": "wikitext2"} | options)).check()


@pytest.fixture
def hub_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(datasets.config, "HF_HUB_OFFLINE", True)


def write_hub(folder: Path, config: str, train: str, validation: str) -> str:
    """A local folder in the hub's layout, whose rows are lines and whose blank lines are empty, as there."""
    card = [f"---\nconfigs:\n- config_name: {config}\n  data_files:"]
    for split, text in (("train", train), ("validation", validation)):
        lines = [line if line.strip() else "" for line in text.splitlines(keepends=True)]
        folder.mkdir(exist_ok=True)
        datasets.Dataset.from_dict({"text": lines}).to_parquet(folder / f"{split}.parquet")
        card.append(f"  - split: {split}\n    path: {split}.parquet")
    (folder / "README.md").write_text("\n".join([*card, "---\n"]))
    return str(folder)


@pytest.mark.usefixtures("hub_cache")
@pytest.mark.parametrize(
    ("name", "config"), [("wikitext2", "wikitext-2-raw-v1"), ("wikitext103", "wikitext-103-raw-v1")]
)
def test_the_hub_s_rows_make_the_same_text_as_the_files(tmp_path: Path, name: str, config: str) -> None:
    data = WikiText(name, hub=write_hub(tmp_path / "hub", config, FIRST + SECOND, VALID)).load()
    write(tmp_path / "files" / "wiki.train.raw", FIRST + SECOND)
    write(tmp_path / "files" / "wiki.valid.raw", VALID)
    assert data.fingerprint == WikiText(name, root=str(tmp_path / "files")).load().fingerprint
    assert data.sources == {"train": "hub@train", "validation": "hub@validation"}


@pytest.mark.usefixtures("hub_cache")
def test_an_unreachable_hub_is_one_line_with_the_local_way_out() -> None:
    with pytest.raises(ConnectionError) as caught:
        WikiText("wikitext103", hub="nobody/no-such-wiki").load()
    message = str(caught.value)
    assert message.startswith("cannot read wikitext-103-raw-v1 of the data set 'nobody/no-such-wiki': ")
    assert message.endswith("; set task.root=DIR to read local wiki.train and wiki.valid files")
    assert "\n" not in message


REAL = Path(__file__).resolve().parents[3].parent / "shared/data"


@pytest.mark.skipif(not REAL.is_dir(), reason="needs shared/data beside the repository")
def test_the_real_files_have_the_counts_of_the_release() -> None:
    task = WikiText("wikitext2", root=str(REAL / "wikitext-2-raw"), train_file="wiki.train.head1MB.raw.gz")
    data = task.load()
    articles = data.validation["validation"]
    assert len(articles) == 60
    # The release counts 217,646 tokens: words, and an end for each of its 3,760 lines.
    assert sum(len(text.split()) + text.count("\n") for text in articles) == 217_646


@pytest.mark.skipif(not REAL.is_dir(), reason="needs shared/data beside the repository")
def test_articles_of_the_real_text_are_encoded_as_the_running_text_is() -> None:
    task = WikiText("wikitext2", root=str(REAL / "wikitext-2-raw"), train_file="wiki.train.head1MB.raw.gz")
    articles = task.load().validation["validation"][:3]
    tokenizer = padded_tokenizer()
    rows = task.encoder(tokenizer, 64).encode(articles)
    tokens = [token for row in rows for token in row.input_ids[row.context :].tolist()]
    assert tokens == tokenizer("".join(articles))["input_ids"]
    assert sum(row.words for row in rows) == len("".join(articles).split())
