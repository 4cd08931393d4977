"""What makes a comparison fair: shared grids, choices on held-out training rows, checked teachers, named data."""

from pathlib import Path

import pytest
from cli import run_here
from runs import records
from toy import write_toy_mnli, write_toy_pairs
from transformers import BertTokenizerFast

from mimicry.data.topics import Topics
from mimicry.reporting.run_record import RunRecord, read_record
from mimicry.reporting.transfer import transfer_tables


def run(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, *arguments: str) -> RunRecord:
    run_here(monkeypatch, *arguments)
    return read_record(records(tmp_path)[-1])


def without(arguments: list[str], *words: str) -> list[str]:
    return [argument for argument in arguments if not any(word in argument for word in words)]


GRID = ("regime.teach.learning_rate=[1e-9,3e-3]", "regime.recover.epochs=[1,2]", "regime.holdout_rows=32")


def test_the_best_settings_on_held_out_training_rows_are_taken_and_recorded(
    arguments: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = without(arguments, "teach.learning_rate", "recover.epochs")
    record = run(monkeypatch, tmp_path, "attn=hedgehog", *GRID, *arguments)
    teach = [trial for trial in record.trials if trial.stage == "teacher"]
    assert [(trial.learning_rate, trial.chosen) for trial in teach] == [(1e-9, False), (3e-3, True)]
    assert teach[1].held_out > teach[0].held_out
    # The chosen weights are the ones that go on: the toy task is solved.
    assert record.value("teacher", "val/accuracy") > 0.9
    recover = [trial for trial in record.trials if trial.stage == "recovered"]
    assert [trial.epochs for trial in recover] == [1, 2]
    assert sum(trial.chosen for trial in recover) == 1
    # A stage without a choice is trained once and not judged.
    (distill,) = [trial for trial in record.trials if trial.stage == "distilled"]
    assert distill.chosen
    assert distill.held_out is None
    # Nothing trains on the rows that settings are chosen on.
    assert record.data["rows"] == {"train": 224, "held_out": 32, "validation": 64}
    assert teach[0].steps == 6 * 224 // 16
    assert teach[0].tokens_per_s > 0
    assert "best of 2 settings on held-out rows" in capsys.readouterr().out


def test_the_reported_rows_have_no_say_in_the_choice(
    arguments: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    arguments = without(arguments, "teach.learning_rate", "recover.epochs", "task.root")
    choices = []
    for name in ("glue", "turned"):
        folder = tmp_path / name / "SST-2"
        if name == "turned":
            folder.mkdir(parents=True)
            original = tmp_path / "glue/SST-2"
            (folder / "train.tsv").write_text((original / "train.tsv").read_text())
            header, *rows = (original / "dev.tsv").read_text().splitlines()
            turned = [f"{row[:-1]}{1 - int(row[-1])}" for row in rows]
            (folder / "dev.tsv").write_text("\n".join([header, *turned]) + "\n")
        # The fingerprint of the config knows nothing of the folder's content: each has its own results.
        results = f"paths.results={tmp_path / name / 'results'}"
        rest = without(arguments, "paths.results")
        run_here(monkeypatch, "attn=elu", *GRID, f"task.root={tmp_path / name}", results, *rest)
        record = read_record(next((tmp_path / name / "results").rglob("record.json")))
        choices.append([(trial.stage, trial.held_out, trial.chosen) for trial in record.trials])
        scores = [record.value("teacher", "val/accuracy")]
    assert choices[0] == choices[1]
    assert scores[0] < 0.1


def test_a_candidate_that_diverges_is_out_and_the_others_go_on(
    arguments: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    grid = ("regime.teach.learning_rate=[1e30,3e-3]", "regime.holdout_rows=32", "trainer.gradient_clip_val=null")
    record = run(monkeypatch, tmp_path, "attn=elu", *grid, *without(arguments, "teach.learning_rate"))
    first, second = (trial for trial in record.trials if trial.stage == "teacher")
    assert (first.held_out, first.chosen, second.chosen) == (None, False, True)
    assert record.value("teacher", "val/accuracy") > 0.9


def test_more_held_out_rows_than_there_are_is_refused(arguments: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    arguments = without(arguments, "recover.epochs")
    with pytest.raises(SystemExit, match=r"regime.holdout_rows must be < the 256 training rows, got 256"):
        run_here(monkeypatch, "attn=elu", "regime.recover.epochs=[1,2]", "regime.holdout_rows=256", *arguments)


def test_maps_can_learn_on_another_corpus(
    arguments: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_toy_pairs(tmp_path / "glue")
    corpus = ("task@maps_corpus=mrpc", f"maps_corpus.root={tmp_path / 'glue'}", "regime.distill.max_rows=null")
    record = run(monkeypatch, tmp_path, "attn=hedgehog", *corpus, *without(arguments, "distill.max_rows"))
    used = record.data["maps_corpus"]
    assert (used["name"], used["source"], used["rows"]) == ("mrpc", "MRPC/train.tsv", 16)
    steps = {trial.stage: trial.steps for trial in record.trials}
    assert steps["distilled"] == 4
    assert steps["recovered"] == 2 * 256 // 16


def test_maps_of_a_classifier_can_learn_on_running_text(
    arguments: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    corpus = ("ablation=running_text", "maps_corpus.max_train_rows=3", "regime.distill.max_rows=null")
    budget = ("regime.distill.epochs=1", *without(arguments, "distill.max_rows", "distill.epochs"))
    record = run(monkeypatch, tmp_path, "attn=hedgehog", *corpus, *budget)
    used = record.data["maps_corpus"]
    documents = Topics(max_train_rows=3).load()
    tokens = sum(
        len(text)
        for text in BertTokenizerFast.from_pretrained(tmp_path / "tiny")(
            list(documents.train), add_special_tokens=False
        )["input_ids"]
    )
    # [CLS] and [SEP] stand in each of the 32 places.
    assert (used["name"], used["rows"]) == ("topics", -(-tokens // 30))
    assert used["source"].startswith("pydoc_data.topics of Python ")
    assert used["fingerprint"] == documents.fingerprint
    steps = {trial.stage: trial.steps for trial in record.trials}
    assert steps["distilled"] == -(-used["rows"] // 16)
    assert "| hedgehog | topics | distilled | 0." in transfer_tables([record])


def test_running_text_is_refused_where_it_is_no_corpus(arguments: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(
        SystemExit, match=r"maps_corpus must be of the model's kind, text \(.*\), got language \(samsum"
    ):
        run_here(monkeypatch, "task@maps_corpus=samsum", *arguments)
    with pytest.raises(
        SystemExit, match=r"maps_corpus must be of the model's kind, image \(.*\), got language \(topics"
    ):
        run_here(monkeypatch, "model=vit_tiny", "task=digits", "task@maps_corpus=topics")


def test_a_corpus_may_have_labels_that_the_model_does_not_know(
    arguments: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_toy_mnli(tmp_path / "glue")
    corpus = ("task@maps_corpus=mnli", f"maps_corpus.root={tmp_path / 'glue'}")
    record = run(monkeypatch, tmp_path, "attn=hedgehog", *corpus, *arguments)
    assert (record.status, record.data["maps_corpus"]["name"]) == ("finished", "mnli")


def test_a_corpus_for_maps_that_are_not_distilled_is_refused(
    arguments: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(SystemExit, match=r"maps_corpus needs regime.distill.epochs >= 1, got 0"):
        run_here(
            monkeypatch, "task@maps_corpus=movie_reviews", *without(arguments, "distill"), "regime.distill.epochs=0"
        )


def test_a_donor_far_below_its_known_score_stops_the_run_before_anything_is_converted(
    arguments: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    donor = (f"model.teacher={tmp_path / 'tiny'}", "model.known_scores={sst2: 0.95}")
    with pytest.raises(SystemExit, match=r"model.teacher: .*tiny scores accuracy 0\.\d+ on sst2 here"):
        run_here(monkeypatch, "attn=hedgehog", *donor, *arguments)
    record = read_record(records(tmp_path)[0])
    assert record.status == "failed"
    assert not record.metrics


def test_both_validation_sets_of_mnli_are_scored_and_a_missing_one_is_named(
    arguments: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    arguments = ["task=mnli", "regime.teach.epochs=1", *without(arguments, "task=", "teach.epochs")]
    write_toy_mnli(tmp_path / "glue")
    record = run(monkeypatch, tmp_path, "attn=elu", *arguments)
    assert record.score_names() == ["val/accuracy", "val/accuracy_mismatched"]
    splits = {entry.name: entry.split for entry in record.metrics if entry.stage == "recovered"}
    assert splits["val/accuracy_mismatched"] == "validation_mismatched"
    assert record.data["missing"] == []
    (tmp_path / "glue/MNLI/dev_mismatched.tsv").unlink()
    record = run(monkeypatch, tmp_path, "attn=elu", "rerun=true", *arguments)
    assert record.score_names() == ["val/accuracy"]
    assert record.data["missing"][0].startswith("validation_mismatched (no dev_mismatched.tsv")


def test_a_text_task_is_refused_for_an_image_model(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(SystemExit, match=r"task must be of the model's kind, image \(.*\), got text \(movie_reviews\)"):
        run_here(monkeypatch, "model=vit_tiny", "task=movie_reviews")


def test_a_sentence_to_draw_is_refused_for_an_image_model(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(SystemExit, match=r"analysis.sentence needs a text model, got vit-4x64"):
        run_here(monkeypatch, "model=vit_tiny", "task=digits", "analysis.sentence=hello")


def test_a_small_image_model_is_taught_converted_and_recorded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MIMICRY_CACHE", str(tmp_path / "cache"))
    settings = ("debug=smoke", "trainer.accelerator=cpu", f"paths.results={tmp_path / 'results'}")
    record = run(monkeypatch, tmp_path, "model=vit_tiny", *settings)
    assert (record.status, record.task, record.score_names()) == ("finished", "digits", ["val/top1", "val/top5"])
    # 64 images of 17 tokens in one epoch.
    assert record.stages[0].steps == 4
    assert record.stages[0].tokens_per_s > 0
    assert record.value("distilled", "analysis/kl") is not None
