"""Training from scratch end to end, from the command line, on small tasks that are drawn from a seed."""

import math
from pathlib import Path

import pytest
import torch
from cli import run_here
from runs import records
from safetensors.torch import load_file

from mimicry.attention.feature_maps.cosformer import CosformerFeatureMap
from mimicry.reporting.run_record import RunRecord, read_record

RECALL = [
    "regime=scratch",
    "task.num_symbols=8",
    "task.length=8",
    "task.score=answer",
    "task.max_train_rows=512",
    "task.max_validation_rows=128",
    "regime.train.learning_rate=3e-3",
    "logger.mode=disabled",
    "trainer.accelerator=cpu",
    "analysis.rows=64",
]


# Artifacts and the file in them.
WEIGHTS = (("last weights", ""), ("student", "model.safetensors"))


def run(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, *arguments: str) -> RunRecord:
    run_here(monkeypatch, *arguments, f"paths.results={tmp_path / 'results'}")
    (path,) = records(tmp_path)
    return read_record(path)


def test_recall_is_learnt_from_scratch_and_recorded_without_a_teacher(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    record = run(monkeypatch, tmp_path, *RECALL, "attn=softmax", "regime.train.epochs=12")
    assert (record.regime, record.model, record.task) == ("scratch", "recall_decoder", "associative_recall")
    assert [stage.stage for stage in record.stages] == ["trained"]
    # Of four values one is right by chance.
    assert record.value("trained", "val/accuracy") > 0.5
    assert record.value("trained", "analysis/entropy") > 0
    assert record.value("trained", "analysis/kl") is None
    (trial,) = record.trials
    assert trial.steps == 12 * 512 // 32
    assert trial.trained_parameters == record.data["parameters"]
    # How fast the machine was is its own matter; the operations of a token are about six for each parameter.
    operations = trial.mfu * trial.peak_flops_per_s / trial.tokens_per_s
    assert 3 < operations / trial.trained_parameters < 12
    assert trial.best_epoch is None
    (curve,) = record.curves
    assert (curve.name, curve.stage, curve.x[-1]) == ("train/loss", "trained", trial.steps)
    # Four values at first, and then fewer.
    assert curve.y[0] == pytest.approx(math.log(9), abs=1.0)
    assert curve.y[-1] < curve.y[0]
    assert (records(tmp_path)[0].parent / record.artifacts["figure"]).read_bytes().startswith(b"\x89PNG")
    shown = capsys.readouterr().out
    assert "trained from scratch" in shown
    assert "teacher" not in shown


def test_training_stops_when_held_out_rows_get_no_better_and_keeps_the_best_epoch(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # At this rate nothing is learnt, so the first epoch stays the best.
    arguments = [argument for argument in RECALL if "learning_rate" not in argument]
    options = (
        "regime.train.epochs=9",
        "regime.patience=2",
        "regime.holdout_rows=64",
        "regime.train.learning_rate=1e-12",
    )
    record = run(monkeypatch, tmp_path, *arguments, "attn=elu", *options)
    (trial,) = record.trials
    assert (trial.epochs, trial.best_epoch) == (3, 1)
    assert record.data["rows"]["held_out"] == 64
    # What is scored is the best epoch, and the last one is there beside it.
    folder = records(tmp_path)[0].parent
    last, best = (load_file(folder / record.artifacts[name] / file) for name, file in WEIGHTS)
    assert last.keys() == best.keys()
    assert any(not torch.equal(last[name], best[name]) for name in last)
    assert not (records(tmp_path)[0].parent / "progress").exists()


def test_an_encoder_learns_digits_as_rows_of_pixels(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    options = ("regime=scratch", "model=lra_encoder", "attn=hedgehog", "regime.train.epochs=3", "logger.mode=disabled")
    record = run(monkeypatch, tmp_path, *options, "trainer.accelerator=cpu", "analysis.rows=32")
    assert record.task == "digits_pixels"
    # Of ten digits one is right by chance.
    assert record.value("trained", "val/accuracy") > 0.2


ENCODER = ("regime=scratch", "model=lra_encoder", "regime.train.epochs=1")
IMAGES = ("regime=finetuned", "model=vit_tiny", "regime.teach.epochs=1", "regime.distill.epochs=0")


@pytest.mark.parametrize(
    ("options", "period"),
    [
        (ENCODER, 64),
        ((*ENCODER, "model.sizes.pooling=cls"), 65),
        ((*IMAGES, "regime.recover.epochs=0"), 512),
    ],
    ids=["mean", "cls", "images"],
)
def test_cosformer_weighs_distances_by_the_length_of_the_rows(
    options: tuple[str, ...], period: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    limits = ["task.max_train_rows=64", "task.max_validation_rows=32", "analysis.rows=32", "attn=cosformer"]
    used: set[int] = set()
    forward = CosformerFeatureMap.forward

    def noted(self: CosformerFeatureMap, x: torch.Tensor, start: int = 0) -> torch.Tensor:
        used.add(self.max_length)
        return forward(self, x, start)

    monkeypatch.setattr(CosformerFeatureMap, "forward", noted)
    run(monkeypatch, tmp_path, *options, *limits, "logger.mode=disabled", "trainer.accelerator=cpu")
    assert used == {period}


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["model=minilm"], "model must be of a kind that the regime converts, native, got text"),
        (["task=digits_pixels"], "task must be of the model's kind, tokens (recall_decoder), got sequence"),
        (
            ["attn=cosformer", "attn.feature_map.max_length=16"],
            "max_length must be >= 131, the tokens of a row, got 16",
        ),
        (["regime.patience=0"], "regime.patience must be >= 1 or null, got 0"),
        (["regime.train.epochs=0"], "regime.train.epochs must be >= 1, got 0"),
        (["task.num_symbols=7"], "num_symbols must be even and >= 4, got 7"),
        (["model.sizes.num_heads=3"], "hidden_size must be a multiple of num_heads = 3, got 64"),
    ],
)
def test_bad_options_are_refused_before_anything_starts(
    arguments: list[str], message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(SystemExit) as refused:
        run_here(monkeypatch, "regime=scratch", *arguments, f"paths.results={tmp_path / 'results'}")
    assert message in str(refused.value)
    assert not records(tmp_path)
