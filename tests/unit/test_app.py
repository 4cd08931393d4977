"""The command line's answers: quick, one line, before anything is downloaded or trained."""

from pathlib import Path

import pytest
from cli import run_here, run_outside


@pytest.fixture(autouse=True)
def _nothing_may_be_fetched_or_trained(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MIMICRY_CACHE", str(tmp_path / "cache"))
    # A download would fail at once, and with another message than the one expected.
    monkeypatch.setenv("PIP_NO_INDEX", "1")


REFUSALS = [
    # (overrides, what the line must say); composing the config finds the first group.
    (["attn=hedgehogg"], r"Could not find 'attn/hedgehogg'; choose one of cosformer, elu"),
    (["model=gpt9"], r"Could not find 'model/gpt9'; choose one of bert_base, bert_base_donor"),
    (["task=glue"], r"Could not find 'task/glue'; choose one of associative_recall, cola, digits"),
    (["regime=finetune"], r"Could not find 'regime/finetune'; choose one of finetuned"),
    (["attn.feature_map.bia=true"], r"attn.feature_map.bia: no such option; there are bias, identity_init"),
    (["typo=1"], r"typo: no such option; there are maps_corpus, seed, from, rerun"),
    (["attn=["], r"no viable alternative at input"),
    # Signatures find these.
    (["+attn.typo=1"], r"attn.typo: LinearAttention has no such option; it has dims, feature_map, tie_maps"),
    (["+typo=1"], r"typo: no such option; there are regime, attn"),
    (["+task.typo=1"], r"task.typo: MovieReviews has no such option"),
    (["+regime.teach.typo=1"], r"regime.teach.typo: BudgetGrid has no such option; it has epochs"),
    (["attn.feature_map.bias=3"], r"attn.feature_map.bias must be bool, got 3"),
    (["seed=abc"], r"seed must be an integer >= 0, got 'abc'"),
    (["rerun=5"], r"rerun must be true or false, got 5"),
    (["regime.teach.learning_rate=fast"], r"regime.teach.learning_rate must be float | list[float], got 'fast'"),
    (["task.max_train_rows=1.5"], r"task.max_train_rows must be int \| None, got 1.5"),
    (["logger.mode=loud"], r"logger.mode must be Literal\['auto', 'online', 'offline', 'disabled'\], got 'loud'"),
    (["attn._target_=foo.Bar"], r"attn._target_: cannot import 'foo.Bar'"),
    # Of the trainer: what a run sets itself, and what Lightning would take for something else or find out late.
    (
        ["trainer.accumulate_grad_batches=4"],
        r"left to its default so far; set it with \+trainer.accumulate_grad_batches=",
    ),
    (["trainer.typo=4"], r"trainer.typo: no such option; there are accelerator, devices"),
    (["+trainer.max_epochs=2"], r"trainer.max_epochs is set by the run itself, got 2: use regime.<stage>.epochs"),
    (["+trainer.fast_dev_run=true"], r"trainer.fast_dev_run is set by the run itself, got True: use debug=smoke"),
    (["trainer.gradient_clip_val=-1"], r"trainer.gradient_clip_val must be > 0, or null for no clipping, got -1"),
    (["+trainer.accumulate_grad_batches=0"], r"trainer.accumulate_grad_batches must be >= 1, got 0"),
    (["trainer.log_every_n_steps=0"], r"trainer.log_every_n_steps must be >= 1, got 0"),
    # Ranges and combinations.
    (["attn=exp_t1", "attn.feature_map.temperature=-1.0"], r"temperature must be > 0, got -1.0"),
    (["attn=cosformer", "attn.feature_map.max_length=64"], "max_length must be >= 128, the tokens of a row, got 64"),
    (["regime.recover.batch_size=0"], r"batch_size must be >= 1, got 0"),
    (["regime.distill.epochs=-1"], r"epochs must be >= 0, got -1"),
    (["regime.teach.epochs=0"], r"regime.teach.epochs must be >= 1 unless model.teacher names a finetuned model"),
    (["scheduler.warmup=2.0"], r"warmup must be in \[0, 1\), got 2.0"),
    (["model.max_length=4"], r"model.max_length must be >= 8, got 4"),
    (["task.max_train_rows=0"], r"max_train_rows must be >= 1 or null, got 0"),
    (["analysis.rows=0"], r"analysis.rows must be >= 1, got 0"),
    (
        ["model.teacher=./donor", "model.known_scores={movies:0.9}"],
        r"model.known_scores must name the task, movie_reviews, got movies",
    ),
    # Files.
    (["model.path=/no/such/model"], r"model.path: no such folder: /no/such/model"),
    (["model.teacher=./none"], r"model.teacher: no such folder: ./none"),
    (["task=sst2", "task.root=/no/such/glue"], r"root must hold the folder SST-2, got /no/such/glue without it"),
]


@pytest.mark.parametrize(("overrides", "message"), REFUSALS, ids=[" ".join(overrides) for overrides, _ in REFUSALS])
def test_bad_input_is_one_line_before_anything_starts(
    overrides: list[str], message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(SystemExit, match=message) as refused:
        run_here(monkeypatch, *overrides, f"paths.results={tmp_path / 'results'}")
    assert str(refused.value).startswith("error: ")
    assert "\n" not in str(refused.value)
    assert not (tmp_path / "results").exists()


def test_a_bad_label_names_file_line_and_value(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = tmp_path / "SST-2"
    folder.mkdir()
    (folder / "train.tsv").write_text("sentence\tlabel\nfine\t1\nodd\tmaybe\n")
    (folder / "dev.tsv").write_text("sentence\tlabel\nfine\t1\n")
    with pytest.raises(SystemExit, match=r"SST-2/train.tsv:3: label must be one of 0, 1, got 'maybe'"):
        run_here(monkeypatch, "task=sst2", f"task.root={tmp_path}", f"paths.results={tmp_path / 'results'}")


def test_an_architecture_without_a_seam_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "config.json").write_text('{"model_type": "deberta-v2"}')
    with pytest.raises(SystemExit, match=r"architecture 'deberta-v2' cannot be converted: .*; convertible: bert"):
        run_here(monkeypatch, f"model.path={tmp_path}", f"paths.results={tmp_path / 'results'}")


def test_refusals_reach_the_shell_as_an_exit_code_and_a_line() -> None:
    done = run_outside("attn=hedgehogg")
    assert done.returncode == 1
    assert done.stdout == ""
    assert done.stderr.count("\n") == 1
    assert done.stderr.startswith("error: ")


@pytest.mark.parametrize("arguments", [["--help"], ["--cfg", "job"], ["attn=hedgehogg"], ["typo=1"]])
def test_what_needs_no_heavy_import_makes_none(arguments: list[str]) -> None:
    # A clock would measure the machine; what makes the answer slow is importing these.
    done = run_outside(*arguments, PYTHONPROFILEIMPORTTIME="1")
    assert " hydra" in done.stderr
    for heavy in ("torch", "lightning", "transformers", "wandb", "datasets"):
        assert f"| {heavy}\n" not in done.stderr


def test_help_shows_the_groups_and_a_first_command() -> None:
    shown = run_outside("--help").stdout
    assert "python run.py regime=finetuned attn=hedgehog" in shown
    assert "hedgehog_softmax" in shown
