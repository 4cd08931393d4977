import gzip
import json
import re
from pathlib import Path

import datasets
import pytest
import torch
from language import END, padded_tokenizer

from mimicry.data.samsum import Dialogue, Samsum, read_dialogues
from mimicry.data.summaries import SummaryEncoder

PROMPT = "sum up :\n{dialogue}\n---\n"
ROWS = [
    {"id": "1", "dialogue": "Ann: the cat ?\r\nBob: sat .", "summary": "The cat sat."},
    {"id": "2", "dialogue": "Cy: caf\xe9 \u2028 {dialogue} \U0001f600", "summary": " A chat. "},
]
PARSED = (
    Dialogue("Ann: the cat ?\nBob: sat .", "The cat sat."),
    Dialogue("Cy: caf\xe9 \u2028 {dialogue} \U0001f600", "A chat."),
)
TOKENIZER = padded_tokenizer()


def samsum(**options: object) -> Samsum:
    return Samsum(**({"prompt": PROMPT, "summary_tokens": 16} | options))


def lines(rows: list[dict[str, str]]) -> str:
    return "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)


def write(path: Path, text: str) -> None:
    path.parent.mkdir(exist_ok=True)
    path.write_bytes(gzip.compress(text.encode()) if path.suffix == ".gz" else text.encode())


@pytest.mark.parametrize("suffix", [".jsonl", ".jsonl.gz"])
@pytest.mark.parametrize(
    ("scored", "stem"), [("validation", "val"), ("validation", "validation"), ("validation", "dev"), ("test", "test")]
)
def test_json_lines_are_read(tmp_path: Path, scored: str, stem: str, suffix: str) -> None:
    folder = tmp_path / "chats"
    write(folder / f"train{suffix}", lines(ROWS))
    write(folder / f"{stem}{suffix}", lines(ROWS[:1]))
    task = samsum(root=str(folder), scored=scored)
    task.check()
    data = task.load()
    assert (data.train, data.validation) == (PARSED, {scored: PARSED[:1]})
    assert data.sources == {"train": f"chats/train{suffix}", scored: f"chats/{stem}{suffix}"}
    assert data.metrics == ("nll_token", "nll_word", "rouge1", "rouge2", "rougeL")


def test_a_row_without_a_chat_is_left_out_and_told(tmp_path: Path) -> None:
    write(tmp_path / "train.jsonl", lines([{"dialogue": " ", "summary": "x"}, *ROWS]))
    write(tmp_path / "val.jsonl", lines(ROWS))
    data = samsum(root=str(tmp_path)).load()
    assert data.train == PARSED
    assert data.missing == ("train (1 rows without a dialogue)",)


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ('{"dialogue": "a", "summ', 'line must hold a JSON object, got \'{"dialogue": "a", "summ\' (Unterminated'),
        ("", "line must hold a JSON object, got ''"),
        ("[1]", "line must hold a JSON object, got list"),
        ('{"summary": "b"}', "dialogue must be a text, got None"),
        ('{"dialogue": "a", "summary": 3}', "summary must be a text, got 3"),
        ('{"dialogue": "a", "summary": " "}', "summary must not be empty, got ' '"),
    ],
)
def test_a_broken_line_is_refused_with_file_and_line_before_anything_is_loaded(
    tmp_path: Path, line: str, message: str
) -> None:
    write(tmp_path / "train.jsonl", lines(ROWS) + line + "\n")
    write(tmp_path / "val.jsonl", lines(ROWS))
    with pytest.raises(ValueError, match=f"^{re.escape(f'{tmp_path}/train.jsonl:3: {message}')}") as refused:
        samsum(root=str(tmp_path)).check()
    assert "\n" not in str(refused.value)


def test_an_empty_or_missing_split_is_refused(tmp_path: Path) -> None:
    write(tmp_path / "train.jsonl", lines(ROWS))
    with pytest.raises(
        ValueError, match=r"^test must have a file in .*, got no test\.jsonl or test\.jsonl\.gz; found no"
    ):
        samsum(root=str(tmp_path), scored="test").check()
    write(tmp_path / "test.jsonl", "")
    with pytest.raises(
        ValueError, match=r"^test split of samsum must have at least one row, got 0 from .*test\.jsonl$"
    ):
        samsum(root=str(tmp_path), scored="test").check()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"prompt": "sum up"}, "prompt must hold {dialogue} once, got 'sum up'"),
        ({"prompt": "{dialogue}{dialogue}"}, "prompt must hold {dialogue} once, got '{dialogue}{dialogue}'"),
        ({"summary_tokens": 1}, "summary_tokens must be >= 2, got 1"),
        ({"scored": "train"}, "scored must be validation or test, got 'train'"),
        ({"max_train_rows": 0}, "max_train_rows must be >= 1 or null, got 0"),
        ({"root": "/no/such/folder"}, "root must be a folder, got /no/such/folder"),
    ],
)
def test_a_bad_option_is_refused_at_once(options: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=f"^{re.escape(message)}$"):
        samsum(**options).check()


@pytest.fixture
def hub_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(datasets.config, "HF_HUB_OFFLINE", True)


@pytest.mark.usefixtures("hub_cache")
def test_the_hub_layout_gives_the_same_rows_as_the_files(tmp_path: Path) -> None:
    folder = tmp_path / "hub"
    folder.mkdir()
    columns = {name: [row[name] for row in ROWS] for name in ROWS[0]}
    for split in ("train", "validation", "test"):
        datasets.Dataset.from_dict(columns).to_parquet(folder / f"{split}.parquet")
    data = samsum(hub=str(folder)).load()
    assert (data.train, data.validation) == (PARSED, {"validation": PARSED})
    assert data.sources == {"train": "hub@train", "validation": "hub@validation"}
    datasets.Dataset.from_dict({"chat": ["a"], "summary": ["b"]}).to_parquet(folder / "train.parquet")
    (folder / "validation.parquet").unlink()
    (folder / "test.parquet").unlink()
    datasets.Dataset.from_dict({"chat": ["a"], "summary": ["b"]}).to_parquet(folder / "test.parquet")
    with pytest.raises(ValueError, match=r"^hub@train must have the column 'dialogue', got chat, summary$"):
        samsum(hub=str(folder), scored="test").load()


def encode(dialogue: str, summary: str, max_length: int = 96, summary_tokens: int = 16) -> tuple[list[int], int, int]:
    encoder = SummaryEncoder(TOKENIZER, max_length, PROMPT, summary_tokens)
    (row,) = encoder.encode([Dialogue(dialogue, summary)])
    assert row.reference == summary
    return row.input_ids.tolist(), row.context, row.words


def test_only_the_summary_and_its_end_are_predicted() -> None:
    ids, context, words = encode("Ann: hello {dialogue}", "The cat sat.")
    assert ids[:context] == TOKENIZER("sum up :\nAnn: hello {dialogue}\n---\n")["input_ids"]
    assert ids[context:] == [*TOKENIZER("The cat sat.")["input_ids"], TOKENIZER.eos_token_id]
    assert words == 3
    batch = SummaryEncoder(TOKENIZER, 96, PROMPT, 16).collate(
        SummaryEncoder(TOKENIZER, 96, PROMPT, 16).encode([Dialogue("a", "the cat"), Dialogue("a", "the")])
    )
    assert [TOKENIZER.decode(row[row != -100]) for row in batch["labels"]] == [f"the cat{END}", f"the{END}"]
    assert batch["words"].tolist() == [2, 1]
    assert batch["attention_mask"].sum(-1).tolist() == [batch["input_ids"].shape[1], batch["input_ids"].shape[1] - 1]


def test_a_long_chat_loses_its_last_tokens_and_keeps_the_prompt_around_it() -> None:
    chat = " ".join(f"w{index}" for index in range(60))
    short, context, _ = encode(chat, "The cat.", max_length=64)
    whole = TOKENIZER(PROMPT.replace("{dialogue}", chat))["input_ids"]
    after = TOKENIZER("\n---\n")["input_ids"]
    assert context == 64 - 16
    assert short[:context] == whole[: 64 - 16 - len(after)] + after
    assert short[context:] == [*TOKENIZER("The cat.")["input_ids"], TOKENIZER.eos_token_id]


def test_a_chat_is_cut_alike_whatever_its_summary_is_so_that_prompts_tell_nothing_of_it() -> None:
    chat = " ".join(f"w{index}" for index in range(60))
    prompts = []
    for summary in ("A.", "the cat sat on the mat . the dog ran"):
        ids, context, _ = encode(chat, summary, max_length=64)
        prompts.append(ids[:context])
    assert prompts[0] == prompts[1]


def test_a_long_summary_keeps_its_first_tokens_and_the_words_that_end_in_them_and_does_not_end() -> None:
    summary = "zebra zebra zebra zebra"
    tokens = TOKENIZER(summary)["input_ids"]
    kept = tokens[:11]
    ids, context, words = encode("a", summary, summary_tokens=12)
    assert len(tokens) > 12
    assert ids[context:] == kept
    # A word ends where the next token begins with a space.
    names = TOKENIZER.convert_ids_to_tokens(tokens)
    assert words == sum(name.startswith("\u0120") for name in names[1:12])


def test_a_context_without_room_for_a_chat_is_refused() -> None:
    bare = len(TOKENIZER("sum up :\n\n---\n")["input_ids"])
    message = (
        f"max_length must leave room for a chat beside its prompt ({bare} tokens) and summary (summary_tokens=16), "
        f"got {bare + 16}"
    )
    with pytest.raises(ValueError, match=f"^{re.escape(message)}$"):
        SummaryEncoder(TOKENIZER, bare + 16, PROMPT, 16)
    SummaryEncoder(TOKENIZER, bare + 17, PROMPT, 16)
    with pytest.raises(ValueError, match=r"^examples must not be empty, got 0$"):
        SummaryEncoder(TOKENIZER, 96, PROMPT, 16).encode([])


def test_the_task_encodes_with_its_own_prompt() -> None:
    encoder = samsum().encoder(TOKENIZER, 96)
    rows = encoder.encode(PARSED)
    assert encoder.lengths(rows) == [len(row) for row in rows]
    assert all(row.input_ids.dtype == torch.int32 for row in rows)
    assert encoder.position_names(rows[0])[:2] == TOKENIZER.tokenize("sum up")[:2]


REAL = Path(__file__).resolve().parents[3].parent / "shared/data/samsum"


@pytest.mark.skipif(not REAL.is_dir(), reason="needs shared/data/samsum beside the repository")
def test_the_real_chats_are_all_read() -> None:
    assert len(samsum(root=str(REAL), scored="test").load().train) == 14_731
    assert [len(read_dialogues(REAL / f"{name}.jsonl.gz")) for name in ("val", "test")] == [818, 819]
