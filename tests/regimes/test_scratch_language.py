"""Language models from scratch end to end, from the command line, on a few pages of the embedded text."""

import math
from collections.abc import Callable
from pathlib import Path

import pytest
from cli import run_here
from language import save_toy_decoder, toy_tokenizer
from runs import records
from safetensors.torch import load_file
from test_resuming import EVERY_STEP, count_steps, numbers
from transformers import AutoTokenizer

from mimicry.reporting.run_record import RunRecord, read_record
from mimicry.training.task import TaskModule

TINY = [
    "regime=scratch",
    "model=small_decoder",
    "attn=elu",
    "model.vocab_size=300",
    "model.max_length=32",
    "model.sizes.num_layers=1",
    "model.sizes.hidden_size=32",
    "model.sizes.mlp_size=64",
    "task.max_train_rows=3",
    "task.max_validation_rows=1",
    "regime.train.max_rows=64",
    "regime.train.epochs=2",
    "regime.train.learning_rate=1e-2",
    "logger.mode=disabled",
    "trainer.accelerator=cpu",
    "analysis.rows=8",
]


def run(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, *arguments: str, results: str = "results") -> RunRecord:
    run_here(monkeypatch, *TINY, *arguments, f"paths.results={tmp_path / results}")
    (path,) = (tmp_path / results).rglob("record.json")
    return read_record(path)


def test_a_language_model_is_trained_from_scratch_and_saved_with_its_tokenizer(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    record = run(monkeypatch, tmp_path)
    assert (record.regime, record.model, record.task) == ("scratch", "small_decoder", "topics")
    # All 300 tokens are as likely at first.
    assert record.curves[0].y[0] == pytest.approx(math.log(300), abs=0.3)
    assert 1 < record.value("trained", "val/nll_token") < math.log(300) - 0.5
    assert record.value("trained", "val/nll_word") > record.value("trained", "val/nll_token")
    assert record.trials[0].mfu > 0
    student = records(tmp_path)[0].parent / record.artifacts["student"]
    assert load_file(student / "model.safetensors")["trunk.tokens.weight"].shape == (300, 32)
    assert len(AutoTokenizer.from_pretrained(student)) == 300
    assert "PPL / word" in capsys.readouterr().out


def test_more_context_for_what_is_scored_changes_the_scores_and_not_the_training(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    blocks = run(monkeypatch, tmp_path, "regime.train.epochs=4", results="blocks")
    strided = run(monkeypatch, tmp_path, "regime.train.epochs=4", "task.stride=8", results="strided")
    assert strided.curves == blocks.curves
    assert strided.data["fingerprint"] == blocks.data["fingerprint"]
    assert strided.data["rows"]["validation"] == pytest.approx(31 / 8 * blocks.data["rows"]["validation"], rel=0.1)
    assert strided.value("trained", "val/nll_token") != blocks.value("trained", "val/nll_token")
    # The same tokens and words are scored, so that both scores move alike.
    ratios = [run.value("trained", "val/nll_word") / run.value("trained", "val/nll_token") for run in (blocks, strided)]
    assert ratios[0] == pytest.approx(ratios[1], rel=1e-5)


# In the middle of a step's batches, and after one.
@pytest.mark.parametrize("batch", [9, 10])
def test_an_interrupted_run_that_adds_gradients_and_stops_early_ends_as_an_undisturbed_one(
    batch: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    options = (
        *("+trainer.accumulate_grad_batches=2", "regime.train.batch_size=4", "model.sizes.dropout=0.1"),
        *("regime.patience=1", "regime.holdout_rows=8"),
    )
    undisturbed = run(monkeypatch, tmp_path, *options, results="undisturbed")
    assert undisturbed.trials[0].steps == 2 * 32 // 8
    assert undisturbed.trials[0].best_epoch == 2
    mend = stop_at_batch(monkeypatch, batch)
    with pytest.raises(RuntimeError, match="the power went out"):
        run(monkeypatch, tmp_path, *options, EVERY_STEP)
    mend()
    steps = count_steps(monkeypatch)
    resumed = run(monkeypatch, tmp_path, *options, EVERY_STEP)
    assert numbers(resumed) == numbers(undisturbed)
    # What had been added to an unfinished step is done again.
    assert steps["train"] == 16 - batch // 2 * 2


def test_gradients_are_added_over_batches(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    # Rows of equal length: a step of two batches of 4 is as good as one of 8.
    one = run(monkeypatch, tmp_path, "regime.train.batch_size=8", results="one")
    two = run(monkeypatch, tmp_path, "regime.train.batch_size=4", "+trainer.accumulate_grad_batches=2", results="two")
    assert two.trials[0].steps == one.trials[0].steps
    assert two.value("trained", "val/nll_token") == pytest.approx(one.value("trained", "val/nll_token"), abs=0.2)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["task=associative_recall"], "task must be of the model's kind, language (small_decoder), got tokens"),
        (["model=recall_decoder", "task=topics"], "task must be of the model's kind, tokens (recall_decoder), got lan"),
        (["task=samsum"], "task must be scored by likelihood alone for a model from scratch, which writes no texts"),
        (["model.vocab_size=100"], "model.vocab_size must be >= 257, all bytes and an end of text, got 100"),
        (["model.tokenizer=./none"], "model.tokenizer: no such folder: ./none"),
        (["model.max_length=4"], "model.max_length must be >= 8, got 4"),
        (["task.stride=32"], "task.stride must be < 32, the tokens of a row, got 32"),
        (["task.stride=0"], "stride must be >= 1 or null, got 0"),
        (
            ["attn=cosformer", "attn.feature_map.max_length=16"],
            "max_length must be >= 256, the tokens of a row, got 16",
        ),
        (["scheduler.floor=1.0"], "floor must be in [0, 1), got 1.0"),
    ],
)
def test_impossible_settings_are_refused_before_anything_starts(
    arguments: list[str], message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    start = ["regime=scratch", *([] if "model=recall_decoder" in arguments else ["model=small_decoder"])]
    sizes = ["model.max_length=32"] if "task.stride=32" in arguments else []
    with pytest.raises(SystemExit) as refused:
        run_here(monkeypatch, *start, *sizes, *arguments, f"paths.results={tmp_path / 'results'}")
    assert message in str(refused.value)
    assert not records(tmp_path)


def test_a_tokenizer_with_more_tokens_than_the_model_has_rows_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    save_toy_decoder(tmp_path)
    assert len(toy_tokenizer()) == 300
    with pytest.raises(SystemExit, match=r"model\.tokenizer: the tokenizer of .* does not fit: .* the model has 290 r"):
        run_here(
            monkeypatch,
            *TINY,
            f"model.tokenizer={tmp_path}",
            "model.vocab_size=290",
            f"paths.results={tmp_path / 'results'}",
        )


def stop_at_batch(monkeypatch: pytest.MonkeyPatch, batch: int) -> Callable[[], None]:
    """Training is interrupted before this batch, counted over all epochs, until the returned function is called."""
    original, seen = TaskModule.training_step, []

    def interrupted(self: TaskModule, rows: dict, batch_idx: int) -> object:
        if len(seen) == batch:
            raise RuntimeError("the power went out")
        seen.append(batch_idx)
        return original(self, rows, batch_idx)

    monkeypatch.setattr(TaskModule, "training_step", interrupted)
    return lambda: monkeypatch.setattr(TaskModule, "training_step", original)
