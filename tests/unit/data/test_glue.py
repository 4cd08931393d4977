import gzip
import re
from collections.abc import Sequence
from pathlib import Path

import pytest

from mimicry.data.glue import GlueTask
from mimicry.data.glue_specs import GLUE_SPECS
from mimicry.data.task import Example, TaskData

PRIMARY = {
    "cola": "matthews",
    "sst2": "accuracy",
    "mrpc": "f1",
    "stsb": "pearson",
    "qqp": "accuracy",
    "mnli": "accuracy",
    "qnli": "accuracy",
    "rte": "accuracy",
}
# What each split is called in the results and in the release; the first one is the primary one.
SPLITS = {name: {"validation": "dev"} for name in PRIMARY} | {
    "mnli": {"validation_matched": "dev_matched", "validation_mismatched": "dev_mismatched"}
}
LABEL_NAMES = {
    "mnli": ("entailment", "neutral", "contradiction"),
    "qnli": ("entailment", "not_entailment"),
    "rte": ("entailment", "not_entailment"),
}
STSB = "index\tgenre\tfilename\tyear\told_index\tsource1\tsource2\tsentence1\tsentence2\tscore"
MNLI = "index\tpromptID\tsentence1\tsentence2\tlabel1\tgold_label"
MRPC = "\ufeffQuality\t#1 ID\t#2 ID\t#1 String\t#2 String"
# Two rows of each task as the GLUE release writes them, and what they mean.
FILES = {
    "cola": ("gj04\t1\t\tHe left.\nad03\t0\t*\tLeft he.\n", [("He left.", None, 1), ("Left he.", None, 0)]),
    "sst2": ("sentence\tlabel\na joy \t1\ndull \t0\n", [("a joy ", None, 1), ("dull ", None, 0)]),
    "mrpc": (f"{MRPC}\r\n1\t7\t8\tSo.\tYes.\r\n0\t9\t4\tA.\tB.\r\n", [("So.", "Yes.", 1), ("A.", "B.", 0)]),
    "stsb": (
        f"{STSB}\n0\tg\tf\t2012\t1\tnone\tnone\tA man.\tA guy.\t4.750\n1\tg\tf\t2012\t2\tnone\tnone\tA.\tB.\t0\n",
        [("A man.", "A guy.", 4.75), ("A.", "B.", 0.0)],
    ),
    "qqp": (
        'id\tqid1\tqid2\tquestion1\tquestion2\tis_duplicate\n1\t2\t3\tWhy?\tHow "so?\t1\n4\t5\t6\tWho?\tMe?\t0\n',
        [("Why?", 'How "so?', 1), ("Who?", "Me?", 0)],
    ),
    "mnli": (
        f"{MNLI}\n0\t1\tA.\tB.\tneutral\tcontradiction\n1\t2\tC.\tD.\tneutral\tentailment\n",
        [("A.", "B.", 2), ("C.", "D.", 0)],
    ),
    "qnli": (
        "index\tquestion\tsentence\tlabel\n0\tWho?\tMe.\tentailment\n1\tHow?\tNo.\tnot_entailment\n",
        [("Who?", "Me.", 0), ("How?", "No.", 1)],
    ),
    "rte": (
        "index\tsentence1\tsentence2\tlabel\n0\tA.\tB.\tnot_entailment\n1\tC.\tD.\tentailment\n",
        [("A.", "B.", 1), ("C.", "D.", 0)],
    ),
}


def write(path: Path, content: str) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(gzip.compress(content.encode()) if path.suffix == ".gz" else content.encode())
    return path


def write_task(root: Path, name: str, suffix: str = ".tsv") -> Path:
    spec = GLUE_SPECS[name]
    for stem in ("train", *spec.validation.values()):
        write(root / spec.folder / f"{stem}{suffix}", FILES[name][0])
    return root / spec.folder


def refusal(task: GlueTask) -> str:
    """The message of the error that both the early check and the load raise."""
    with pytest.raises(ValueError, match=r".") as early:
        task.check()
    with pytest.raises(ValueError, match=r".") as late:
        task.load()
    assert str(early.value) == str(late.value)
    assert "\n" not in str(early.value)
    return str(early.value)


@pytest.mark.parametrize("name", FILES)
@pytest.mark.parametrize("suffix", [".tsv", ".tsv.gz"])
def test_the_release_files_of_every_task_are_read(tmp_path: Path, name: str, suffix: str) -> None:
    folder = write_task(tmp_path, name, suffix).name
    task = GlueTask(name, root=str(tmp_path))
    task.check()
    data = task.load()
    expected = tuple(Example(*row) for row in FILES[name][1])
    assert (data.train, data.validation) == (expected, dict.fromkeys(SPLITS[name], expected))
    assert [type(row.label) for row in data.train] == [float if name == "stsb" else int] * 2
    files = {"train": "train", **SPLITS[name]}
    assert data.sources == {split: f"{folder}/{stem}{suffix}" for split, stem in files.items()}
    assert (data.missing, data.label_names) == ((), LABEL_NAMES.get(name, ()))
    assert (data.name, data.num_labels) == (name, {"stsb": 1, "mnli": 3}.get(name, 2))
    assert (data.metrics[0], task.metrics, task.num_labels) == (PRIMARY[name], data.metrics, data.num_labels)


@pytest.mark.parametrize("name", ["rte", "mnli"])
@pytest.mark.parametrize(("train", "validation"), [(1, 2), (2, 1)])
def test_the_limits_cut_every_split_of_their_kind(tmp_path: Path, name: str, train: int, validation: int) -> None:
    write_task(tmp_path, name)
    data = GlueTask(name, root=str(tmp_path), max_train_rows=train, max_validation_rows=validation).load()
    assert len(data.train) == train
    assert {split: len(rows) for split, rows in data.validation.items()} == dict.fromkeys(SPLITS[name], validation)


def test_the_matched_rows_come_first(tmp_path: Path) -> None:
    folder = write_task(tmp_path, "mnli")
    write(folder / "dev_mismatched.tsv", f"{MNLI}\n0\t1\tE.\tF.\tneutral\tneutral\n")
    data = GlueTask("mnli", root=str(tmp_path)).load()
    assert list(data.validation) == ["validation_matched", "validation_mismatched"]
    assert data.validation["validation_mismatched"] == (Example("E.", "F.", 1),)
    assert data.validation["validation_matched"] == data.train


def test_missing_mismatched_rows_are_named_and_never_replaced(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    folder = write_task(tmp_path, "mnli")
    (folder / "dev_mismatched.tsv").rename(folder / "heldout_sample.tsv")
    task = GlueTask("mnli", root=str(tmp_path))
    task.check()
    assert caplog.text == ""
    data = task.load()
    part = "validation_mismatched (no dev_mismatched.tsv or dev_mismatched.tsv.gz in MNLI)"
    assert data.missing == (part,)
    assert list(data.validation) == ["validation_matched"]
    assert list(data.sources) == ["train", "validation_matched"]
    (warning,) = caplog.records
    assert (warning.levelname, warning.getMessage()) == ("WARNING", f"mnli is incomplete, it lacks {part}")


@pytest.mark.parametrize("suffix", [".tsv", ".tsv.gz"])
def test_torn_rows_of_qqp_s_release_are_left_out_counted_and_named(
    tmp_path: Path, suffix: str, caplog: pytest.LogCaptureFixture
) -> None:
    folder = write_task(tmp_path, "qqp", suffix)
    header, first, second = FILES["qqp"][0].splitlines(keepends=True)
    # As in the release: a question that breaks off, and the rest of its row on a line of its own.
    torn = f"{header}{first}7\t8\t9\tWhat\n of it?\tNo\t1\n{second}"
    write(folder / f"train{suffix}", torn)
    task = GlueTask("qqp", root=str(tmp_path))
    task.check()
    assert caplog.text == ""
    data = task.load()
    assert data.train == tuple(Example(*row) for row in FILES["qqp"][1])
    assert data.available == {"train": 2, "validation": 2}
    part = f"train (rows of another width than the header: 2 in QQP/train{suffix})"
    assert data.missing == (part,)
    assert caplog.messages == [f"qqp is incomplete, it lacks {part}"]


@pytest.mark.parametrize(("name", "stem"), [("qqp", "dev"), ("mnli", "dev_matched")])
def test_rows_that_stand_in_for_an_absent_dev_file_are_named(tmp_path: Path, name: str, stem: str) -> None:
    folder = write_task(tmp_path, name)
    (folder / f"{stem}.tsv").rename(folder / "heldout_sample.tsv")
    data = GlueTask(name, root=str(tmp_path), validation_file="heldout_sample.tsv").load()
    primary = next(iter(SPLITS[name]))
    assert data.missing == (f"{stem} (scored on {folder.name}/heldout_sample.tsv instead)",)
    assert data.sources[primary] == f"{folder.name}/heldout_sample.tsv"
    assert list(data.validation) == list(SPLITS[name])


def test_a_file_chosen_beside_the_dev_file_hides_nothing(tmp_path: Path) -> None:
    folder = write_task(tmp_path, "mnli")
    write(folder / "held.tsv", FILES["mnli"][0])
    data = GlueTask("mnli", root=str(tmp_path), validation_file="held.tsv").load()
    assert data.missing == ()
    # The option renames the first split's file only.
    assert list(data.sources.values()) == ["MNLI/train.tsv", "MNLI/held.tsv", "MNLI/dev_mismatched.tsv"]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"name": "wnli"}, "name must be one of cola, sst2, mrpc, stsb, qqp, mnli, qnli, rte, got 'wnli'"),
        (
            {"name": "rte", "train_file": "x.tsv"},
            "train_file needs root, the folder that holds the GLUE folders, got 'x.tsv' alone",
        ),
        (
            {"name": "rte", "validation_file": "x.tsv"},
            "validation_file needs root, the folder that holds the GLUE folders, got 'x.tsv' alone",
        ),
        ({"name": "rte", "max_train_rows": 0}, "max_train_rows must be >= 1 or null, got 0"),
    ],
)
def test_a_bad_option_is_refused_at_once(options: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=f"^{re.escape(message)}$"):
        GlueTask(**options)


def test_a_missing_folder_is_refused(tmp_path: Path) -> None:
    message = refusal(GlueTask("cola", root=str(tmp_path)))
    assert message == f"root must hold the folder CoLA, got {tmp_path} without it"


def test_a_missing_train_file_is_never_replaced_but_names_the_candidates(tmp_path: Path) -> None:
    folder = write_task(tmp_path, "qnli")
    (folder / "train.tsv").rename(folder / "train_sample.tsv")
    (folder / "notes.txt").touch()
    assert refusal(GlueTask("qnli", root=str(tmp_path))) == (
        f"train_file must exist in {folder}, got no train.tsv or train.tsv.gz; "
        "found train_sample.tsv: choose one with task.train_file=NAME"
    )
    data = GlueTask("qnli", root=str(tmp_path), train_file="train_sample.tsv").load()
    assert data.sources["train"] == "QNLI/train_sample.tsv"


def test_a_missing_validation_file_says_when_there_is_no_candidate(tmp_path: Path) -> None:
    folder = write_task(tmp_path, "mnli")
    (folder / "dev_matched.tsv").unlink()
    assert refusal(GlueTask("mnli", root=str(tmp_path))) == (
        f"validation_file must exist in {folder}, got no dev_matched.tsv or dev_matched.tsv.gz; found no other file"
    )


def test_a_file_asked_for_by_name_is_not_replaced_by_the_default(tmp_path: Path) -> None:
    folder = write_task(tmp_path, "rte")
    assert refusal(GlueTask("rte", root=str(tmp_path), validation_file="held.tsv")) == (
        f"validation_file must exist in {folder}, got no held.tsv; found dev.tsv: "
        "choose one with task.validation_file=NAME"
    )


@pytest.mark.parametrize(
    ("name", "options", "uses"),
    [
        ("rte", {"train_file": "dev.tsv"}, "dev.tsv for train, dev.tsv for validation"),
        (
            "mnli",
            {"train_file": "dev_mismatched.tsv"},
            "dev_mismatched.tsv for train, dev_matched.tsv for validation_matched, "
            "dev_mismatched.tsv for validation_mismatched",
        ),
        (
            "mnli",
            {"validation_file": "dev_mismatched.tsv"},
            "train.tsv for train, dev_mismatched.tsv for validation_matched, "
            "dev_mismatched.tsv for validation_mismatched",
        ),
    ],
)
def test_one_file_for_two_splits_is_refused(tmp_path: Path, name: str, options: dict[str, str], uses: str) -> None:
    write_task(tmp_path, name)
    message = refusal(GlueTask(name, root=str(tmp_path), **options))
    assert message == f"train_file and validation_file must leave each split a file of its own, got {uses}"


@pytest.mark.parametrize(
    ("name", "old", "new", "problem"),
    [
        ("cola", "ad03\t0", "ad03\tx", ":2: label must be one of 0, 1, got 'x'"),
        ("sst2", "dull \t0", "dull \t-1", ":3: label must be one of 0, 1, got '-1'"),
        ("rte", "D.\tentailment", "D.\t", ":3: label must be one of entailment, not_entailment, got ''"),
        ("mnli", "contradiction", "-", ":2: label must be one of entailment, neutral, contradiction, got '-'"),
        ("stsb", "4.750", "5.1", ":2: label must be a number from 0 to 5, got '5.1'"),
        ("stsb", "4.750", "high", ":2: label must be a number from 0 to 5, got 'high'"),
        ("stsb", "4.750", "nan", ":2: label must be a number from 0 to 5, got 'nan'"),
        ("qnli", "Who?\t", "Who? ", ":2: row must have 4 columns, got 3"),
        ("cola", "ad03\t0\t*", "ad03\t0", ":2: row must have 4 columns, got 3"),
        ("sst2", "a joy ", "a\tjoy ", ":2: row must have 2 columns, got 3"),
        ("mrpc", "0\t9", "\r\n0\t9", ":3: row must have 5 columns, got 1"),
        ("mrpc", "0\t9", "2\t9", ":3: label must be one of 0, 1, got '2'"),
        ("qqp", "Me?\t0", "Me?\t0.0", ":3: label must be one of 0, 1, got '0.0'"),
        (
            "qnli",
            "Me.\tentailment",
            "Me.\tEntailment",
            ":2: label must be one of entailment, not_entailment, got 'Entailment'",
        ),
        ("stsb", "4.750", "", ":2: label must be a number from 0 to 5, got ''"),
        ("sst2", "label", "mark", ":1: header must have the column 'label', got sentence, mark"),
    ],
)
@pytest.mark.parametrize("split", ["train", "first", "last"])
@pytest.mark.parametrize("suffix", [".tsv", ".tsv.gz"])
def test_a_bad_row_is_refused_with_file_and_line(
    tmp_path: Path, name: str, old: str, new: str, problem: str, split: str, suffix: str
) -> None:
    folder = write_task(tmp_path, name, suffix)
    content = FILES[name][0]
    assert content.count(old) == 1
    stems = list(SPLITS[name].values())
    stem = {"train": "train", "first": stems[0], "last": stems[-1]}[split]
    path = write(folder / f"{stem}{suffix}", content.replace(old, new))
    assert refusal(GlueTask(name, root=str(tmp_path))) == f"{path}{problem}"


def write_hub(
    folder: Path, name: str, columns: dict[str, list[object]], validation: Sequence[str] = ("validation",)
) -> str:
    """A local folder in the hub's layout: one Parquet file a split, and a card that lists them."""
    import datasets

    card = [f"---\nconfigs:\n- config_name: {name}\n  data_files:"]
    for split in ("train", *validation):
        (folder / name).mkdir(parents=True, exist_ok=True)
        datasets.Dataset.from_dict(columns).to_parquet(folder / name / f"{split}.parquet")
        card.append(f"  - split: {split}\n    path: {name}/{split}.parquet")
    (folder / "README.md").write_text("\n".join([*card, "---\n"]))
    return str(folder)


HUB_COLUMNS = {
    "cola": ("sentence",),
    "sst2": ("sentence",),
    "mrpc": ("sentence1", "sentence2"),
    "stsb": ("sentence1", "sentence2"),
    "qqp": ("question1", "question2"),
    "mnli": ("premise", "hypothesis"),
    "qnli": ("question", "sentence"),
    "rte": ("sentence1", "sentence2"),
}


@pytest.fixture
def hub_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import datasets

    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(datasets.config, "HF_HUB_OFFLINE", True)


def load_hub(folder: Path, name: str, columns: dict[str, list[object]], **layout: Sequence[str]) -> TaskData:
    task = GlueTask(name, hub=write_hub(folder, name, columns, **layout))
    task.check()
    return task.load()


@pytest.mark.usefixtures("hub_cache")
@pytest.mark.parametrize("name", HUB_COLUMNS)
def test_the_hub_layout_of_every_task_is_read(tmp_path: Path, name: str) -> None:
    texts = {column: [f"{column} a", f"{column} b"] for column in HUB_COLUMNS[name]}
    labels = [2.5, 0.0] if name == "stsb" else [1, 0]
    splits = list(SPLITS[name])
    data = load_hub(tmp_path / "glue", name, {**texts, "label": labels, "idx": [0, 1]}, validation=splits)
    first, *pairs = texts.values()
    rows = zip(first, pairs[0] if pairs else [None, None], labels, strict=True)
    expected = tuple(Example(*row) for row in rows)
    assert (data.train, data.validation) == (expected, dict.fromkeys(splits, expected))
    assert list(data.validation) == splits
    assert [type(row.label) for row in data.train] == [type(label) for label in labels]
    assert data.sources == {split: f"glue@{split}" for split in ("train", *splits)}
    assert (data.missing, data.label_names) == ((), LABEL_NAMES.get(name, ()))


@pytest.mark.usefixtures("hub_cache")
@pytest.mark.parametrize(
    ("name", "columns", "message"),
    [
        ("cola", {"sentence": ["A."], "label": [-1]}, "glue@train row 0: label must be one of 0, 1, got -1"),
        ("cola", {"text": ["A."], "label": [1]}, "glue@train must have the column 'sentence', got text, label"),
        (
            "stsb",
            {"sentence1": ["A."], "sentence2": ["B."], "label": [-1.0]},
            "glue@train row 0: label must be a number from 0 to 5, got -1.0",
        ),
    ],
)
def test_a_bad_hub_row_is_refused(tmp_path: Path, name: str, columns: dict[str, list[object]], message: str) -> None:
    with pytest.raises(ValueError, match=f"^{re.escape(message)}$"):
        load_hub(tmp_path / "glue", name, columns)


@pytest.mark.usefixtures("hub_cache")
@pytest.mark.parametrize("other", [{"name": "sst2"}, {"validation": ["test"]}], ids=["config", "split"])
def test_a_hub_data_set_without_the_task_or_split_is_refused_in_one_line(
    tmp_path: Path, other: dict[str, Sequence[str]]
) -> None:
    hub = write_hub(tmp_path / "glue", columns={"sentence": ["A."], "label": [1]}, **({"name": "cola"} | other))
    with pytest.raises(ValueError, match=r"cannot read cola of the data set .*; set task\.root=DIR") as caught:
        GlueTask("cola", hub=hub).load()
    assert "\n" not in str(caught.value)


@pytest.mark.usefixtures("hub_cache")
def test_an_unreachable_hub_is_one_line_with_the_local_way_out() -> None:
    with pytest.raises(ConnectionError) as caught:
        GlueTask("cola", hub="nobody/no-such-glue").load()
    message = str(caught.value)
    assert message.startswith("cannot read cola of the data set 'nobody/no-such-glue': ")
    assert message.endswith("; set task.root=DIR to read local GLUE files")
    assert "\n" not in message


REAL = Path(__file__).resolve().parents[3].parent / "shared/data/glue"
SAMPLE = {"train_file": "train_sample.tsv.gz"}
HELDOUT = {**SAMPLE, "validation_file": "heldout_sample.tsv.gz"}


@pytest.mark.skipif(not REAL.is_dir(), reason=f"no GLUE files in {REAL}")
@pytest.mark.parametrize(
    ("name", "files", "counts"),
    [
        # Rows to train on, then those of each validation split; MNLI's mismatched file is not there.
        ("cola", {}, (8551, 1043)),
        ("sst2", {}, (67349, 872)),
        ("mrpc", {}, (3668, 408)),
        ("stsb", {}, (5749, 1500)),
        ("qnli", SAMPLE, (8999, 5463)),
        ("qnli", HELDOUT, (8999, 1000)),
        ("mnli", SAMPLE, (8999, 9815)),
        ("mnli", HELDOUT, (8999, 1000)),
        ("qqp", HELDOUT, (8999, 1000)),
    ],
)
def test_the_real_files_hold_the_rows_they_should(name: str, files: dict[str, str], counts: tuple[int, int]) -> None:
    data = GlueTask(name, root=str(REAL), **files).load()
    assert (len(data.train), *map(len, data.validation.values())) == counts
    assert bool(data.missing) == (name in ("mnli", "qqp"))
    if name != "stsb":
        assert {row.label for row in data.train} == set(range(data.num_labels))
