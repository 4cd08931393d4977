"""Blocks of a stream: nothing lost, nothing counted twice, and the likelihood of the whole text."""

import itertools
import math

import pytest
import torch
from families import tiny_model
from language import END, TEXT, padded_tokenizer, toy_tokenizer
from tokenizers import Tokenizer, models, pre_tokenizers
from torch.nn.functional import cross_entropy
from transformers import PreTrainedTokenizerFast

from mimicry.data.batches import Encoder, TaskBatches, model_inputs
from mimicry.data.language import DOCUMENTS_AT_ONCE, LanguageBlocks, LanguageEncoder
from mimicry.data.language_rows import words_per_token

TOKENIZER = padded_tokenizer()
END_ID = TOKENIZER.eos_token_id
DOCUMENTS = [TEXT, " the mat \n\n x", "caf\xe9 \U0001f600 sat\u2003down"] * 20


def predicted(rows: LanguageBlocks) -> list[int]:
    """The tokens that rows predict, in order."""
    return [token for index in range(len(rows)) for token in rows[index].input_ids[rows[index].context :].tolist()]


def joined(documents: list[str]) -> list[int]:
    stream = [token for text in documents for token in [END_ID, *TOKENIZER(text)["input_ids"]]]
    return stream[1:]


@pytest.mark.parametrize("stride", [None, 1, 5, 14, 15])
@pytest.mark.parametrize("count", [1, 2, DOCUMENTS_AT_ONCE, DOCUMENTS_AT_ONCE + 1, 60])
def test_every_token_but_the_opening_one_is_predicted_once_in_order(count: int, stride: int | None) -> None:
    rows = LanguageEncoder(TOKENIZER, 16, stride=stride).encode(DOCUMENTS[:count])
    assert predicted(rows) == joined(DOCUMENTS[:count])


@pytest.mark.parametrize("stride", [None, 5])
def test_words_sum_to_those_of_the_text_whatever_the_blocks(stride: int | None) -> None:
    rows = LanguageEncoder(TOKENIZER, 16, stride=stride).encode(DOCUMENTS)
    assert sum(rows[index].words for index in range(len(rows))) == sum(len(text.split()) for text in DOCUMENTS)


def test_a_row_counts_the_words_that_end_in_the_tokens_it_predicts() -> None:
    text = "the unseen cat hums"
    rows = LanguageEncoder(TOKENIZER, 8, stride=1).encode([text])
    # A word ends where the next token begins with a space, or the text ends.
    tokens = [*TOKENIZER.tokenize(text), "\u0120"]
    assert len(tokens) > 6
    assert rows.words == [int(after.startswith("\u0120")) for after in tokens[1:]]


def test_blocks_share_one_token_and_only_the_last_is_short() -> None:
    rows = LanguageEncoder(TOKENIZER, 16).encode(DOCUMENTS)
    every = [rows[index] for index in range(len(rows))]
    assert {len(row) for row in every[:-1]} == {16}
    assert 2 <= len(every[-1]) <= 16
    assert {row.context for row in every} == {1}
    assert all(before.input_ids[-1] == after.input_ids[0] for before, after in itertools.pairwise(every))


def test_a_stride_gives_each_block_as_much_context_as_there_is() -> None:
    rows = LanguageEncoder(TOKENIZER, 16, stride=5).encode(DOCUMENTS)
    stream = [END_ID, *joined(DOCUMENTS)]
    for index in range(len(rows)):
        first = 1 + 5 * index
        assert rows[index].context == min(11, first)
        assert rows[index].input_ids.tolist() == stream[max(0, first - 11) : first + 5]


def test_pieces_of_a_running_text_are_joined_with_nothing_between_them() -> None:
    rows = LanguageEncoder(TOKENIZER, 16, separated=False).encode(["the cat .", " the dog ."])
    assert predicted(rows) == TOKENIZER("the cat . the dog .")["input_ids"]


def test_rows_can_be_iterated_and_end() -> None:
    rows = LanguageEncoder(TOKENIZER, 16).encode([TEXT])
    assert [row.words for row in rows] == rows.words
    with pytest.raises(IndexError, match=r"^index must be from 0 to \d+, got -1$"):
        rows[-1]


def test_a_batch_is_padded_behind_and_says_what_to_predict() -> None:
    encoder = LanguageEncoder(TOKENIZER, 16, stride=5)
    rows = encoder.encode([TEXT])
    last = len(rows) - 1
    chosen = [rows[0], rows[2], rows[last]]
    batch = encoder.collate(chosen)
    assert {name: tensor.dtype for name, tensor in batch.items()} == {
        "input_ids": torch.long,
        "labels": torch.long,
        "words": torch.float32,
        "attention_mask": torch.long,
    }
    assert batch["words"].tolist() == [row.words for row in chosen]
    for index, row in enumerate(chosen):
        ids = row.input_ids.tolist()
        padding = 16 - len(row)
        assert batch["input_ids"][index].tolist() == ids + [END_ID] * padding
        assert batch["attention_mask"][index].tolist() == [1] * len(row) + [0] * padding
        assert batch["labels"][index].tolist() == [-100] * row.context + ids[row.context :] + [-100] * padding


def test_a_batch_without_padding_has_no_mask() -> None:
    encoder = LanguageEncoder(TOKENIZER, 16)
    rows = encoder.encode(DOCUMENTS)
    assert set(encoder.collate([rows[0], rows[1]])) == {"input_ids", "labels", "words"}


def test_an_end_of_text_that_pads_is_still_learnt_where_it_ends_a_text() -> None:
    encoder = LanguageEncoder(TOKENIZER, 64)
    assert TOKENIZER.pad_token_id == END_ID
    labels = encoder.collate(list(encoder.encode(["the cat", "the dog"])))["labels"][0]
    assert (labels == END_ID).sum() == 1


@pytest.mark.parametrize("stride", [None, 3])
def test_losses_of_batches_sum_to_the_likelihood_of_the_text_in_float64(stride: int | None) -> None:
    model = tiny_model("llama", vocab_size=300).double()
    encoder = LanguageEncoder(TOKENIZER, 64, stride=stride)
    rows = encoder.encode([TEXT])
    batches = TaskBatches(encoder, rows, rows, [], {"validation": rows}, seed=0)
    total, count = 0.0, 0
    with torch.no_grad():
        for batch in batches.measuring(rows):
            targets = batch["labels"][:, 1:]
            # The host library's own loss is taken in float32.
            logits = model(**model_inputs(batch)).logits[:, :-1]
            total += cross_entropy(logits.flatten(0, 1), targets.flatten(), reduction="sum").item()
            count += int((targets != -100).sum())
        stream = torch.tensor([[END_ID, *joined([TEXT])]])
        logits = model(stream).logits[0, :-1].log_softmax(-1)
    assert (len(rows) == 1) == (stride is None)
    assert count == stream.shape[1] - 1
    expected = -logits.gather(-1, stream[0, 1:, None]).sum().item()
    assert math.isclose(total, expected, rel_tol=1e-12)


def test_lengths_and_names_tell_of_the_tokens() -> None:
    encoder: Encoder = LanguageEncoder(TOKENIZER, 16)
    rows = encoder.encode([TEXT])
    assert encoder.lengths(rows) == [len(row) for row in rows]
    assert encoder.position_names(rows[0])[:3] == [END, "the", "\u0120cat"]
    assert encoder.workers == 0


def test_a_text_in_which_a_tokenizer_drops_its_end_keeps_its_words() -> None:
    # Two words end before 8; whatever follows is in no token.
    assert words_per_token("the cat sat on", [3, 7]).tolist() == [1, 3]
    assert words_per_token("", []).tolist() == []


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"max_length": 7}, r"max_length must be >= 8, got 7"),
        ({"max_length": 16, "stride": 16}, r"stride must be from 1 to max_length - 1 = 15 or null, got 16"),
        ({"max_length": 16, "stride": 0}, r"stride must be from 1 to max_length - 1 = 15 or null, got 0"),
    ],
)
def test_a_length_out_of_range_is_refused(options: dict[str, int], message: str) -> None:
    with pytest.raises(ValueError, match=f"^{message}$"):
        LanguageEncoder(TOKENIZER, **options)


def test_a_tokenizer_without_a_token_it_needs_is_refused() -> None:
    with pytest.raises(ValueError, match=r"^tokenizer must have a pad token, got none in "):
        LanguageEncoder(toy_tokenizer(), 16)
    bare = PreTrainedTokenizerFast(tokenizer_object=toy_tokenizer().backend_tokenizer, pad_token=END)
    with pytest.raises(ValueError, match=r"^tokenizer must have an eos token, got none in "):
        LanguageEncoder(bare, 16)


def test_documents_without_a_token_are_refused() -> None:
    encoder = LanguageEncoder(TOKENIZER, 16)
    with pytest.raises(ValueError, match=r"^documents must not be empty, got 0$"):
        encoder.encode([])
    with pytest.raises(ValueError, match=r"^documents must have at least one token, got none in 1 documents$"):
        encoder.encode([""])


def test_a_tokenizer_without_byte_fallback_counts_words_that_it_does_not_know() -> None:
    words = Tokenizer(models.WordLevel({END: 0, "<unk>": 1, "the": 2}, unk_token="<unk>"))
    words.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=words, eos_token=END, pad_token=END, unk_token="<unk>")
    rows = LanguageEncoder(tokenizer, 8).encode(["the cat sat on the mat"] * 3)
    assert sum(rows.words) == 18
