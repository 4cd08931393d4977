import lightning
import pytest
import torch
from tokenizers import Tokenizer, models, pre_tokenizers
from torch import Tensor
from torch.utils.data import DataLoader
from transformers import BertTokenizer, PreTrainedTokenizerFast

from mimicry.data.batches import TaskBatches
from mimicry.data.task import Example
from mimicry.data.text import EncodedRow, TextEncoder

SPECIAL = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
VOCAB = {token: index for index, token in enumerate([*SPECIAL, *(f"w{index}" for index in range(100))])}
PAD, UNK, CLS, SEP = 0, 1, 2, 3


@pytest.fixture(scope="module")
def tokenizer() -> BertTokenizer:
    return BertTokenizer(vocab=VOCAB)


def words(start: int, count: int) -> str:
    return " ".join(f"w{index}" for index in range(start, start + count))


def singles(count: int) -> list[Example]:
    """Texts of 1, 2, ... 20, 1, 2, ... words; the first word tells apart those of one length."""
    return [Example(words(index // 20, index % 20 + 1), None, index % 2) for index in range(count)]


def encode(examples: list[Example], tokenizer: object, max_length: int) -> list[EncodedRow]:
    return TextEncoder(tokenizer, max_length).encode(examples)


def batches_of(tokenizer: BertTokenizer, train: int = 100, validation: int = 70, seed: int = 0) -> TaskBatches:
    encoder = TextEncoder(tokenizer, max_length=32)
    rows, scored = encoder.encode(singles(train)), {"validation": encoder.encode(singles(validation))}
    return TaskBatches(encoder, train=rows, distill=rows[:40], held_out=rows[:10], validation=scored, seed=seed)


def training(tokenizer: BertTokenizer, seed: int = 0, max_rows: int | None = None) -> DataLoader:
    return batches_of(tokenizer, seed=seed).training("teach", batch_size=8, max_rows=max_rows)


def measuring(tokenizer: BertTokenizer, seed: int = 0) -> DataLoader:
    batches = batches_of(tokenizer, seed=seed)
    return batches.measuring(batches.validation["validation"])


def contents(batches: list[dict[str, Tensor]]) -> list[tuple[int, ...]]:
    """Each row's tokens without padding, in the order of the batches."""
    return [
        tuple(row[mask.bool()].tolist())
        for batch in batches
        for row, mask in zip(batch["input_ids"], batch["attention_mask"], strict=True)
    ]


def test_single_texts_become_tokens_with_their_label(tokenizer: BertTokenizer) -> None:
    (row,) = encode([Example("w0 w1 other", None, 1)], tokenizer, max_length=8)
    assert row.inputs["input_ids"] == [CLS, VOCAB["w0"], VOCAB["w1"], UNK, SEP]
    assert (row.label, len(row)) == (1, 5)


def test_pairs_share_a_row_and_the_longer_text_is_truncated_first(tokenizer: BertTokenizer) -> None:
    (row,) = encode([Example("w0 w1", words(10, 20), 0)], tokenizer, max_length=9)
    pair = [VOCAB[f"w{index}"] for index in range(10, 14)]
    assert row.inputs["input_ids"] == [CLS, VOCAB["w0"], VOCAB["w1"], SEP, *pair, SEP]
    assert row.inputs["token_type_ids"] == [0] * 4 + [1] * 5


def test_long_texts_are_cut_to_max_length(tokenizer: BertTokenizer) -> None:
    (row,) = encode([Example(words(0, 50), None, 0)], tokenizer, max_length=8)
    assert len(row) == 8
    assert row.inputs["input_ids"][-1] == SEP


@pytest.mark.parametrize(
    ("examples", "max_length", "message"),
    [
        (singles(1), 7, "max_length must be >= 8, got 7"),
        ([], 8, "examples must not be empty, got 0"),
    ],
)
def test_what_cannot_be_encoded_is_refused(
    tokenizer: BertTokenizer, examples: list[Example], max_length: int, message: str
) -> None:
    with pytest.raises(ValueError, match=f"^{message}$"):
        encode(examples, tokenizer, max_length)


@pytest.fixture
def bare_tokenizer() -> PreTrainedTokenizerFast:
    """Without special tokens besides one to pad with."""
    words_only = Tokenizer(models.WordLevel(VOCAB, unk_token="[UNK]"))
    words_only.pre_tokenizer = pre_tokenizers.Whitespace()
    return PreTrainedTokenizerFast(tokenizer_object=words_only, pad_token="[PAD]")


def test_a_text_without_tokens_is_refused(bare_tokenizer: PreTrainedTokenizerFast) -> None:
    message = "examples must have at least one token each, got none for 1: ' '"
    with pytest.raises(ValueError, match=f"^{message}$"):
        encode([Example("w1", None, 0), Example(" ", None, 0)], bare_tokenizer, max_length=8)


def test_a_tokenizer_without_a_pad_token_is_refused() -> None:
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=Tokenizer(models.WordLevel(VOCAB, unk_token="[UNK]")))
    with pytest.raises(ValueError, match=r"^tokenizer must have a pad token, got none in \w+$"):
        TextEncoder(tokenizer, max_length=8)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"batch_size": 0}, "batch_size must be >= 1, got 0"),
        ({"batch_size": 8, "max_rows": 0}, "max_rows must be >= 1 or null, got 0"),
    ],
)
def test_a_bad_size_is_refused(tokenizer: BertTokenizer, options: dict[str, int], message: str) -> None:
    with pytest.raises(ValueError, match=f"^{message}$"):
        batches_of(tokenizer).training("teach", **options)


def test_no_rows_are_refused(tokenizer: BertTokenizer) -> None:
    rows = encode(singles(2), tokenizer, max_length=8)
    batches = TaskBatches(TextEncoder(tokenizer, 8), train=[], distill=rows, held_out=[], validation={}, seed=0)
    with pytest.raises(ValueError, match=r"^rows must not be empty, got 0$"):
        batches.training("recover", batch_size=2)
    with pytest.raises(ValueError, match=r"^rows must not be empty, got 0$"):
        batches.measuring(batches.held_out)


def test_maps_learn_on_the_rows_meant_for_them_and_tokens_are_counted_without_padding(
    tokenizer: BertTokenizer,
) -> None:
    batches = batches_of(tokenizer)
    loader = batches.training("distill", batch_size=8)
    rows = contents(list(loader))
    assert sorted(rows) == sorted(tuple(row.inputs["input_ids"]) for row in batches.distill)
    assert batches.tokens(loader) == sum(map(len, rows))


def test_a_batch_is_padded_to_its_longest_row_and_masks_the_padding(tokenizer: BertTokenizer) -> None:
    batches = list(training(tokenizer))
    assert [len(batch["labels"]) for batch in batches] == [8] * 12 + [4]
    for batch in batches:
        mask = batch["attention_mask"].bool()
        assert batch["input_ids"].shape == mask.shape == batch["token_type_ids"].shape
        assert mask.sum(dim=1).max() == mask.shape[1]
        assert (batch["input_ids"][~mask] == PAD).all()
        assert (batch["input_ids"][mask] != PAD).all()


def test_class_labels_are_long_and_stay_with_their_rows(tokenizer: BertTokenizer) -> None:
    rows = encode(singles(100), tokenizer, max_length=32)
    labels = {tuple(row.inputs["input_ids"]): row.label for row in rows}
    batches = list(training(tokenizer))
    assert batches[0]["labels"].dtype == torch.long
    assert [labels[row] for row in contents(batches)] == torch.cat([batch["labels"] for batch in batches]).tolist()


def test_scores_become_float32(tokenizer: BertTokenizer) -> None:
    rows = encode([Example("w1", "w2", 2.5), Example("w1", "w3", 0.0)], tokenizer, max_length=8)
    batch = TextEncoder(tokenizer, 8).collate(rows)
    torch.testing.assert_close(batch["labels"], torch.tensor([2.5, 0.0], dtype=torch.float32))


def test_validation_is_the_same_every_time_sorted_by_length_and_complete(tokenizer: BertTokenizer) -> None:
    loader = measuring(tokenizer)
    rows = contents(list(loader))
    assert rows == contents(list(loader)) == contents(list(measuring(tokenizer, seed=1)))
    assert [len(row) for row in rows] == sorted(len(row) for row in rows)
    assert [len(batch["labels"]) for batch in loader] == [64, 6]
    expected = [tuple(row.inputs["input_ids"]) for row in encode(singles(70), tokenizer, max_length=32)]
    assert sorted(rows) == sorted(expected)


def test_a_stage_trains_on_a_subset_drawn_by_its_seed(tokenizer: BertTokenizer) -> None:
    subsets = []
    for seed in (0, 0, 1):
        rows = contents(list(training(tokenizer, seed=seed, max_rows=30)))
        assert len(set(rows)) == 30
        subsets.append(sorted(rows))
    assert subsets[0] == subsets[1] != subsets[2]


class Recorder(lightning.LightningModule):
    """Keeps the tokens of each epoch's batches."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = torch.nn.Parameter(torch.zeros(()))
        self.epochs: dict[int, list[dict[str, Tensor]]] = {}

    def training_step(self, batch: dict[str, Tensor]) -> Tensor:
        self.epochs.setdefault(self.current_epoch, []).append(batch)
        return self.weight * 1.0

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.SGD(self.parameters(), lr=0.1)


def train(loader: DataLoader) -> list[list[tuple[int, ...]]]:
    recorder = Recorder()
    quiet = {
        "logger": False,
        "enable_checkpointing": False,
        "enable_progress_bar": False,
        "enable_model_summary": False,
    }
    lightning.Trainer(accelerator="cpu", max_epochs=3, **quiet).fit(recorder, train_dataloaders=loader)
    return [contents(batches) for batches in recorder.epochs.values()]


@pytest.mark.filterwarnings(
    "ignore:.*does not have many workers",
    "ignore:.*smaller than the logging interval",
    # Lightning 2.6.6 on torch 2.13.
    "ignore:.*LeafSpec.*is deprecated:FutureWarning",
)
def test_lightning_gives_each_epoch_its_own_repeatable_order(tokenizer: BertTokenizer) -> None:
    epochs = train(training(tokenizer))
    assert epochs == train(training(tokenizer))
    assert sorted(epochs[0]) == sorted(epochs[1]) == sorted(epochs[2])
    assert len({tuple(epoch) for epoch in epochs}) == 3


def test_stages_share_rows_without_touching_them(tokenizer: BertTokenizer) -> None:
    rows = encode(singles(40), tokenizer, max_length=32)
    before = [EncodedRow({key: list(value) for key, value in row.inputs.items()}, row.label) for row in rows]
    batches = TaskBatches(TextEncoder(tokenizer, 32), rows, rows, [], {"validation": rows}, seed=0)
    for batch_size in (4, 16):
        loader = batches.training("teach", batch_size)
        assert len(loader) == -(-40 // batch_size)
        list(loader)
        list(batches.measuring(rows))
    assert rows == before
