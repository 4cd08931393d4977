"""One run in two processes, as a user starts it."""

import json
from pathlib import Path

import pytest
from cli import run_outside
from runs import records

from mimicry.reporting.run_record import read_record

STATES = ("teacher", "no_train", "distilled", "recovered")


BUDGETS = ("regime.teach.epochs=2", "regime.distill.epochs=1", "regime.recover.epochs=1")


# Every process imports everything anew: seconds, but minutes on a machine that is busy.
@pytest.mark.timeout(600)
def test_two_processes_leave_one_record_with_the_numbers_of_one(arguments: list[str], tmp_path: Path) -> None:
    # Processes draw dropout of their own; without it they must end where one does.
    config = tmp_path / "tiny/config.json"
    dropout = {"hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0}
    config.write_text(json.dumps(json.loads(config.read_text()) | dropout))
    found = []
    for name, parallel in {"one": (), "two": ("trainer=ddp", "trainer.devices=2")}.items():
        results = f"paths.results={tmp_path / name / 'results'}"
        ran = run_outside("attn=hedgehog", *arguments, *BUDGETS, results, *parallel, OMP_NUM_THREADS="1", timeout=400)
        assert ran.returncode == 0, ran.stderr[-3000:]
        (path,) = records(tmp_path / name)
        found.append(read_record(path))
        # What goes to the terminal is said once, and without warnings of other libraries.
        assert ran.stdout.count("hedgehog on sst2") == ran.stderr.count("recovered: accuracy") == 1
        assert "Warning" not in ran.stderr
    one, two = found
    assert two.status == "finished"
    assert two.config["trainer"]["strategy"] == "ddp"
    assert [stage.steps for stage in two.stages] == [stage.steps for stage in one.stages]
    for state in STATES:
        assert two.value(state, "val/accuracy") == pytest.approx(one.value(state, "val/accuracy"), abs=0.02)
        # Means over the tokens of each process's rows are not quite those over all tokens.
        assert two.value(state, "analysis/entropy") == pytest.approx(one.value(state, "analysis/entropy"), rel=0.01)
    assert two.data["rows"] == one.data["rows"]
