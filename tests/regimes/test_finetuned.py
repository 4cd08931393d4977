"""Finetuned conversion end to end, from the command line, on a tiny BERT and a toy task."""

import json
import os
import time
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from cli import run_here
from runs import records
from safetensors.torch import load_file, save_file
from toy import write_toy_pairs
from transformers import AutoModelForSequenceClassification, AutoTokenizer

import mimicry
from mimicry.attention import LinearAttention
from mimicry.attention.capture import attention_layers
from mimicry.regimes.runner import Runner
from mimicry.regimes.stage import Stage
from mimicry.reporting.run_record import RunRecord, read_record

Run = Callable[..., RunRecord]


def test_the_main_job_teaches_distils_recovers_and_records(
    arguments: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    run_here(monkeypatch, "regime=finetuned", "attn=hedgehog", *arguments)
    (path,) = records(tmp_path)
    assert path.relative_to(tmp_path / "results/runs").parts[:4] == ("finetuned", "tiny", "sst2", "hedgehog")
    record = read_record(path)
    assert record.status == "finished"
    assert [stage.stage for stage in record.stages] == ["teacher", "no_train", "distilled", "recovered"]
    # The toy task is solved; distillation brings the attention closer to softmax than no training does.
    assert record.value("teacher", "val/accuracy") > 0.9
    assert record.value("distilled", "analysis/kl") < 0.7 * record.value("no_train", "analysis/kl")
    assert record.value("recovered", "val/accuracy") > 0.9
    assert record.stages[0].steps == 6 * 256 // 16
    assert record.data["sources"] == {"train": "SST-2/train.tsv", "validation": "SST-2/dev.tsv"}
    assert "paths" not in record.config
    assert (path.parent / record.artifacts["figure"]).read_bytes().startswith(b"\x89PNG")
    assert sorted(p.parent.name for p in path.parent.rglob("metrics.csv")) == ["distill", "recover", "teach"]
    learnt = ("teacher", "distilled", "recovered")
    assert [(curve.stage, curve.name) for curve in record.curves] == [(state, "train/loss") for state in learnt]
    assert (record.choices["regime"], record.choices["attn"]) == ("finetuned", "hedgehog")
    assert record.overrides[:2] == ("regime=finetuned", "attn=hedgehog")
    shown = capsys.readouterr().out
    assert "hedgehog on sst2" in shown
    assert "recovered" in shown
    assert "record.json" in shown


def test_the_saved_student_loads_as_a_linear_model_with_the_recorded_score(
    arguments: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    measured = {}
    original = Runner._scores

    def remember(self: Runner, stage: object) -> dict[str, float]:
        scores = original(self, stage)
        measured["student"] = stage.model
        return scores

    monkeypatch.setattr(Runner, "_scores", remember)
    run_here(monkeypatch, "attn=hedgehog", *arguments)
    record = read_record(records(tmp_path)[0])
    folder = records(tmp_path)[0].parent / record.artifacts["student"]
    loaded = AutoModelForSequenceClassification.from_pretrained(folder)
    assert [type(layer) for layer in attention_layers(loaded).values()] == [LinearAttention] * 2
    batch = AutoTokenizer.from_pretrained(folder)(["w1 good w2", "bad w3"], padding=True, return_tensors="pt")
    with torch.no_grad():
        assert torch.equal(loaded(**batch).logits, measured["student"].eval()(**batch).logits)
    # Its card tells what it scored and on what, and nothing of where this machine keeps files.
    card = (folder / "README.md").read_text()
    score = f"{100 * record.value('recovered', 'val/accuracy'):.1f}"
    assert any("recovered" in line and score in line for line in card.splitlines())
    assert record.data["fingerprint"] in card
    assert "root: glue" in card
    assert str(tmp_path) not in card


@pytest.mark.parametrize("option", ["model.path", "model.teacher"])
def test_a_converted_model_is_refused_as_the_start_of_a_run(
    option: str, arguments: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = AutoModelForSequenceClassification.from_pretrained(tmp_path / "tiny")
    mimicry.convert(model, "elu").save_pretrained(tmp_path / "student")
    with pytest.raises(SystemExit, match=r"model: it is converted already \(from tiny\), and a run converts softmax"):
        run_here(monkeypatch, "attn=hedgehog", *arguments, f"{option}={tmp_path / 'student'}")
    assert not records(tmp_path)


def test_a_finished_run_is_shown_again_and_not_repeated_unless_asked(
    arguments: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    run_here(monkeypatch, "attn=elu", *arguments)
    first = records(tmp_path)[0].read_text()
    run_here(monkeypatch, "attn=elu", "experiments=minilm_movie_reviews", "analysis=summary", *arguments)
    assert records(tmp_path)[0].read_text() == first
    assert capsys.readouterr().out.count("elu on sst2") == 2
    # The experiment that asked for it will find it.
    assert records(tmp_path)[0].with_name("experiments.txt").read_text() == "minilm_movie_reviews\n"
    run_here(monkeypatch, "attn=elu", "rerun=true", *arguments)
    assert records(tmp_path)[0].read_text() != first


def test_variants_share_one_teacher_and_the_same_seed_gives_the_same_numbers(
    arguments: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run_here(monkeypatch, "attn=relu", *arguments)
    run_here(monkeypatch, "attn=hedgehog", *arguments)
    by_variant = {record.attn: record for record in map(read_record, records(tmp_path))}
    relu, hedgehog = by_variant["relu"], by_variant["hedgehog"]
    assert not relu.stages[0].reused
    assert hedgehog.stages[0].reused
    assert hedgehog.value("teacher", "val/accuracy") == relu.value("teacher", "val/accuracy")
    # An untrained map has nothing to distil: a gap, not a zero.
    assert [stage.stage for stage in relu.stages] == ["teacher", "no_train", "recovered"]
    # Trained afresh instead of taken over, the teacher changes nothing.
    run_here(monkeypatch, "attn=hedgehog", "rerun=true", *arguments)
    again = read_record(next(path for path in records(tmp_path) if "hedgehog" in str(path)))
    assert not again.stages[0].reused
    assert again.metrics == hedgehog.metrics


def test_a_teacher_made_of_other_weights_is_not_taken(
    arguments: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run_here(monkeypatch, "attn=elu", *arguments)
    weights = tmp_path / "tiny" / "model.safetensors"
    tensors = load_file(weights)
    save_file({name: 1.01 * tensor for name, tensor in tensors.items()}, weights, {"format": "pt"})
    run_here(monkeypatch, "attn=relu", *arguments)
    save_file(tensors, weights, {"format": "pt"})
    run_here(monkeypatch, "attn=exp_t1", *arguments)
    found = {record.attn: record.stages[0].reused for record in map(read_record, records(tmp_path))}
    assert found == {"elu": False, "relu": False, "exp_t1": True}


def test_a_finished_run_says_that_its_data_have_changed_since(
    arguments: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = [*arguments, "regime.distill.epochs=0", "regime.recover.epochs=0"]
    run_here(monkeypatch, "attn=elu", *arguments)
    run_here(monkeypatch, "attn=elu", *arguments)
    assert "has changed since" not in capsys.readouterr().err
    later = time.time() + 60
    os.utime(next((tmp_path / "glue").rglob("dev.tsv")), (later, later))
    run_here(monkeypatch, "attn=elu", *arguments)
    assert f"task.root={tmp_path / 'glue'} has changed since that run" in capsys.readouterr().err


def test_a_donor_skips_finetuning(arguments: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run_here(monkeypatch, "attn=hedgehog", f"model.teacher={tmp_path / 'tiny'}", *arguments)
    record = read_record(records(tmp_path)[0])
    assert record.stages[0].steps == 0
    assert record.value("teacher", "val/accuracy") is not None


def test_without_distillation_the_stage_is_a_gap(
    arguments: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    arguments = [argument for argument in arguments if "distill.epochs" not in argument]
    run_here(monkeypatch, "attn=t2r", "regime.distill.epochs=0", *arguments)
    record = read_record(records(tmp_path)[0])
    assert record.value("distilled", "val/accuracy") is None
    assert record.value("recovered", "val/accuracy") is not None


def test_a_crash_leaves_a_failed_record_with_its_reason_and_the_next_run_starts_over(
    arguments: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    original = Runner._scores

    def explode(self: Runner, stage: Stage) -> dict[str, float]:
        if stage.name == "convert":
            raise OSError("the disk\ncaught fire")
        return original(self, stage)

    with monkeypatch.context() as patched:
        patched.setattr(Runner, "_scores", explode)
        with pytest.raises(SystemExit, match="the disk caught fire"):
            run_here(patched, "attn=elu", *arguments)
    record = read_record(records(tmp_path)[0])
    assert (record.status, record.reason) == ("failed", "OSError: the disk caught fire")
    # What was measured before it is kept.
    assert record.value("teacher", "val/accuracy") is not None
    assert record.value("no_train", "val/accuracy") is None
    run_here(monkeypatch, "attn=elu", *arguments)
    finished = read_record(records(tmp_path)[0])
    assert finished.status == "finished"
    # A repetition that fails does not cost the result that was there.
    monkeypatch.setattr(Runner, "_scores", explode)
    with pytest.raises(SystemExit, match="the disk caught fire"):
        run_here(monkeypatch, "attn=elu", "rerun=true", *arguments)
    assert read_record(records(tmp_path)[0]) == finished


def test_divergence_stops_the_run_with_the_stage_and_the_remedy(
    arguments: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    arguments = [argument for argument in arguments if "teach.learning_rate" not in argument]
    with pytest.raises(SystemExit, match=r"teach: loss is nan at step \d+; .*regime.teach.learning_rate"):
        run_here(monkeypatch, "regime.teach.learning_rate=1e30", "trainer.gradient_clip_val=null", *arguments)
    assert read_record(records(tmp_path)[0]).status == "failed"


def test_wandb_keeps_one_offline_run_per_job(
    arguments: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    arguments = [argument for argument in arguments if "logger" not in argument]
    run_here(monkeypatch, "attn=elu", "logger.mode=offline", *arguments)
    path = records(tmp_path)[0]
    (folder,) = (path.parent / "wandb").glob("offline-run-*")
    assert read_record(path).artifacts["W&B run"] == folder.relative_to(path.parent).as_posix()


def test_a_sweep_runs_every_variant_and_a_failed_one_does_not_stop_the_others(
    arguments: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(SystemExit, match="max_length"):
        run_here(monkeypatch, "-m", "attn=cosformer,elu", "+attn.feature_map.max_length=16", *arguments)
    assert not records(tmp_path)
    with pytest.raises(SystemExit, match="temperature must be > 0"):
        run_here(monkeypatch, "-m", "attn=exp_t1", "attn.feature_map.temperature=-1.0,1.0", *arguments)
    assert [read_record(path).attn for path in records(tmp_path)] == ["exp_t1"]


def test_the_primary_metric_of_a_task_with_two_comes_first(
    arguments: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_toy_pairs(tmp_path / "glue")
    arguments = [argument for argument in arguments if argument != "task=sst2"]
    run_here(monkeypatch, "attn=elu", "task=mrpc", *arguments)
    assert read_record(records(tmp_path)[0]).score_names() == ["val/f1", "val/accuracy"]


def test_records_are_plain_json(arguments: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run_here(monkeypatch, "attn=softmax", *arguments)
    record = json.loads(records(tmp_path)[0].read_text())
    assert record["config"]["task"]["name"] == "sst2"
    softmax = {entry["name"]: entry["value"] for entry in record["metrics"] if entry["stage"] == "no_train"}
    assert softmax["analysis/kl"] == pytest.approx(0, abs=1e-6)
