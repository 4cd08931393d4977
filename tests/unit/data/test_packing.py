"""Running text as rows of a classifier: every token once, in order, with special tokens around each block."""

import pytest
from transformers import BertTokenizer

from mimicry.data.packing import DOCUMENTS_AT_ONCE, PackedRows, pack
from mimicry.data.text import TextEncoder

SPECIAL = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
VOCAB = {token: index for index, token in enumerate([*SPECIAL, *(f"w{index}" for index in range(200))])}
CLS, SEP = 2, 3


@pytest.fixture(scope="module")
def tokenizer() -> BertTokenizer:
    return BertTokenizer(vocab=VOCAB)


def text(start: int, count: int) -> str:
    return " ".join(f"w{index}" for index in range(start, start + count))


def middles(rows: PackedRows) -> list[int]:
    """The tokens between the special ones, of all rows."""
    return [token for index in range(len(rows)) for token in rows[index].inputs["input_ids"][1:-1]]


def test_documents_run_on_and_no_token_is_lost(tokenizer: BertTokenizer) -> None:
    rows = pack(tokenizer, [text(0, 7), text(7, 1), text(8, 9)], max_length=8)
    assert [len(rows[index]) for index in range(len(rows))] == [8, 8, 7]
    assert middles(rows) == [VOCAB[f"w{index}"] for index in range(17)]
    for index in range(len(rows)):
        ids = rows[index].inputs["input_ids"]
        assert (ids[0], ids[-1]) == (CLS, SEP)


def test_a_row_is_what_the_tokenizer_makes_of_its_text(tokenizer: BertTokenizer) -> None:
    rows = pack(tokenizer, [text(0, 13)], max_length=10)
    assert rows[0].inputs == dict(tokenizer(text(0, 8)))
    assert rows[1].inputs == dict(tokenizer(text(8, 5)))
    with pytest.raises(IndexError, match=r"^index must be from 0 to 1, got 2$"):
        rows[2]


def test_rows_pad_to_a_batch_like_any_others(tokenizer: BertTokenizer) -> None:
    encoder = TextEncoder(tokenizer, 8)
    rows = pack(tokenizer, [text(0, 8)], max_length=8)
    assert encoder.lengths(rows) == [8, 4]
    batch = encoder.collate([rows[0], rows[1]])
    assert batch["attention_mask"].sum(dim=1).tolist() == [8, 4]
    assert set(batch) == {"input_ids", "token_type_ids", "attention_mask", "labels"}


def test_more_documents_than_are_held_at_once_stay_in_order(tokenizer: BertTokenizer) -> None:
    rows = pack(tokenizer, [f"w{index}" for index in range(2 * DOCUMENTS_AT_ONCE + 1)], max_length=16)
    assert middles(rows) == [VOCAB[f"w{index}"] for index in range(2 * DOCUMENTS_AT_ONCE + 1)]


@pytest.mark.parametrize(
    ("documents", "message"),
    [([], "documents must not be empty, got 0"), ([" ", ""], "documents must have at least one token, got none in 2")],
)
def test_nothing_to_pack_is_refused(tokenizer: BertTokenizer, documents: list[str], message: str) -> None:
    with pytest.raises(ValueError, match=f"^{message}"):
        pack(tokenizer, documents, max_length=8)
