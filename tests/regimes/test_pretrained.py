"""Pretrained conversion end to end, from the command line, on a tiny Llama and the embedded text."""

import math
from pathlib import Path

import pytest
import torch
from cli import run_here
from runs import numbers, records, stop_at
from toy import save_toy_checkpoint
from transformers import AutoModelForCausalLM, AutoTokenizer, modeling_utils

import mimicry
from mimicry.reporting.run_record import RunRecord, read_record
from mimicry.training.task import TaskModule


def run(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, *arguments: str) -> RunRecord:
    run_here(monkeypatch, *arguments)
    (path,) = records(tmp_path)
    return read_record(path)


def test_a_language_model_is_distilled_recovered_with_lora_and_told_in_perplexities(
    language_arguments: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    record = run(monkeypatch, tmp_path, *language_arguments)
    assert (record.regime, record.task) == ("pretrained", "topics")
    assert [stage.stage for stage in record.stages] == ["teacher", "no_train", "distilled", "recovered"]
    assert record.value("distilled", "analysis/kl") < record.value("no_train", "analysis/kl")
    # A random model knows nothing of the text; a few steps teach it which words are frequent.
    assert record.value("teacher", "val/nll_token") > math.log(62)
    assert record.value("recovered", "val/nll_token") < record.value("teacher", "val/nll_token") - 0.1
    # A token of this tokenizer is a word, but for one at the start of each text.
    assert record.value("teacher", "val/nll_word") == pytest.approx(record.value("teacher", "val/nll_token"), rel=0.02)
    by_stage = {trial.stage: trial for trial in record.trials}
    maps = 2 * 2 * 4 * (8 * 8 + 8)
    assert by_stage["distilled"].trained_parameters == maps
    # r = 8 on q and o, 32 to 32, and on k and v, 32 to 16.
    assert by_stage["recovered"].trained_parameters == maps + 2 * 8 * (2 * 64 + 2 * 48)
    shown = capsys.readouterr().out
    assert "PPL" in shown
    assert "of 0.0 M parameters trained" in shown


def test_full_recovery_trains_every_parameter(
    language_arguments: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    record = run(monkeypatch, tmp_path, *language_arguments, "regime.recover_with=full", "attn=elu")
    assert [stage.stage for stage in record.stages] == ["teacher", "no_train", "recovered"]
    (trial,) = record.trials
    assert trial.trained_parameters == record.data["parameters"]


def test_the_student_of_a_run_generates_after_loading_its_adapters_merged_or_separate(
    language_arguments: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    record = run(monkeypatch, tmp_path, *language_arguments, "attn=elu")
    folder = records(tmp_path)[0].parent / record.artifacts["student"]
    merged, tokenizer = AutoModelForCausalLM.from_pretrained(folder), AutoTokenizer.from_pretrained(folder)
    assert not (folder / "adapter").exists()
    # How adapters are saved changes no number: it is the same run.
    again = run(monkeypatch, tmp_path, *language_arguments, "attn=elu", "adapters=separate", "rerun=true")
    assert again.metrics == record.metrics
    separate = AutoModelForCausalLM.from_pretrained(folder)
    separate.load_adapter(folder / "adapter")
    prompt = tokenizer("The", return_tensors="pt")
    with torch.no_grad():
        torch.testing.assert_close(merged(**prompt).logits, separate(**prompt).logits, atol=1e-5, rtol=0)
    texts = [model.generate(**prompt, max_new_tokens=8, do_sample=False) for model in (merged, separate)]
    assert torch.equal(*texts)
    card = (folder / "README.md").read_text()
    assert "PPL / token" in card
    assert "AutoModelForCausalLM" in card
    assert str(tmp_path) not in card


def test_a_converted_model_is_refused_as_the_start_of_a_run(
    language_arguments: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = AutoModelForCausalLM.from_pretrained(tmp_path / "tiny")
    mimicry.convert(model, "elu").save_pretrained(tmp_path / "student")
    with pytest.raises(SystemExit, match=r"model: it is converted already \(from tiny\), and a run converts softmax"):
        run_here(monkeypatch, *language_arguments, f"model.path={tmp_path / 'student'}")
    assert not records(tmp_path)


def test_softmax_is_the_control_that_recovers_with_the_same_budget(
    language_arguments: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    record = run(monkeypatch, tmp_path, *language_arguments, "attn=softmax")
    assert record.value("no_train", "val/nll_token") == pytest.approx(record.value("teacher", "val/nll_token"))
    assert record.value("recovered", "val/nll_token") < record.value("teacher", "val/nll_token")


def test_the_better_candidate_of_a_loss_is_the_lower_one(
    language_arguments: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    grid = "regime.recover.learning_rate=[1e-9,3e-2]"
    arguments = [argument for argument in language_arguments if "recover.learning_rate" not in argument]
    record = run(monkeypatch, tmp_path, *arguments, grid, "attn=elu", "regime.holdout_rows=4")
    (chosen,) = (trial for trial in record.trials if trial.chosen)
    assert chosen.learning_rate == 3e-2


def test_gradient_checkpointing_changes_no_number(
    language_arguments: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    checkpoints: list[object] = []
    original = modeling_utils.checkpoint

    def counted(*args: object, **options: object) -> object:
        checkpoints.append(args[0])
        return original(*args, **options)

    plain = run(monkeypatch, tmp_path, *language_arguments)
    monkeypatch.setattr(modeling_utils, "checkpoint", counted)
    (tmp_path / "results").rename(tmp_path / "plain")
    saving = run(monkeypatch, tmp_path, *language_arguments, "model.gradient_checkpointing=true")
    # Both layers at every step of the recovery; the distillation has no gradients to save.
    assert len(checkpoints) == 2 * saving.trials[-1].steps
    for state in ("teacher", "distilled", "recovered"):
        expected = plain.value(state, "val/nll_token")
        assert saving.value(state, "val/nll_token") == pytest.approx(expected, abs=1e-5)


@pytest.mark.parametrize("with_", ["lora", "full"])
def test_what_a_bfloat16_model_recovers_with_is_trained_in_float32(
    with_: str, language_arguments: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: set[torch.dtype] = set()
    original = TaskModule.on_train_start

    def looked_at(self: TaskModule) -> None:
        seen.update(p.dtype for p in self.model.parameters() if p.requires_grad)
        original(self)

    monkeypatch.setattr(TaskModule, "on_train_start", looked_at)
    options = ("model.dtype=bfloat16", f"regime.recover_with={with_}", "attn=elu")
    record = run(monkeypatch, tmp_path, *language_arguments, *options)
    assert seen == {torch.float32}
    assert record.value("recovered", "val/nll_token") < record.value("teacher", "val/nll_token") - 0.1


def test_layers_that_are_not_chosen_keep_softmax(
    language_arguments: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    record = run(monkeypatch, tmp_path, *language_arguments, "regime.layers=1")
    assert record.trials[0].trained_parameters == 2 * 4 * (8 * 8 + 8)


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("regime.layers=5-2", "layers must be ranges from low to high, got '5-2'"),
        ("regime.recover_with=none", "regime.recover_with must be Literal"),
        ("regime.lora.r=0", "error: regime.lora.r must be >= 1, got 0"),
        ("regime.distill.epochs=[0,1]", "error: regime.distill.epochs must be >= 1, got 0"),
        ("regime.recover.learning_rate=inf", "error: regime.recover.learning_rate must be > 0 and finite, got inf"),
        ("regime.objectives.output=-1.0", "error: regime.objectives.output must be"),
        ("adapters=apart", "adapters must be merged or separate, got 'apart'"),
        ("model.max_length=65", "64 positions, got 65"),
        ("regime=finetuned", "model must be of a kind that the regime converts, text or image, got language"),
    ],
)
def test_bad_options_are_refused_before_anything_is_loaded(
    override: str, message: str, language_arguments: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    arguments = [*language_arguments, "model=smollm2"] if override == "regime=finetuned" else language_arguments
    if override == "regime=finetuned":
        arguments = [argument for argument in arguments if not argument.startswith("regime")]
    with pytest.raises(SystemExit) as refused:
        run_here(monkeypatch, *arguments, override)
    assert message in str(refused.value)
    assert not records(tmp_path)


def test_layers_that_the_model_does_not_have_are_refused_before_anything_is_measured(
    language_arguments: list[str], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit, match=r"^error: regime.layers must be within 0-1, those of the model, got 5$"):
        run_here(monkeypatch, *language_arguments, "regime.layers=5")
    assert "measure" not in capsys.readouterr().err


def test_a_classifier_is_refused_by_the_regime_of_language_models(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    save_toy_checkpoint(tmp_path)
    with pytest.raises(SystemExit, match="model must be of a kind that the regime converts, language, got text"):
        run_here(monkeypatch, "regime=pretrained", "model=minilm", f"model.path={tmp_path}", "task=topics")


def test_adapters_are_drawn_alike_whether_the_maps_were_trained_in_this_attempt_or_taken_from_the_last(
    language_arguments: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    arguments = [*language_arguments, "regime.recover.batch_size=2"]
    undisturbed = run(
        monkeypatch, tmp_path / "undisturbed", *arguments, f"paths.results={tmp_path / 'undisturbed/results'}"
    )
    mend = stop_at(monkeypatch, TaskModule, "recover", 0)
    with pytest.raises(RuntimeError, match="the power went out"):
        run(monkeypatch, tmp_path, *arguments)
    mend()
    assert numbers(run(monkeypatch, tmp_path, *arguments)) == numbers(undisturbed)
