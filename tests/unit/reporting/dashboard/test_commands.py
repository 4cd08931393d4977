from collections.abc import Callable
from pathlib import Path

import pytest

from mimicry.reporting.comparison import group_records, read_records
from mimicry.reporting.dashboard.commands import command
from mimicry.reporting.run_record import RunRecord
from mimicry.reporting.variants import variants

MakeRecord = Callable[..., RunRecord]
ROOT = Path(__file__).parents[4]


def test_a_record_that_kept_its_command_gives_it_back_quoted(make_record: MakeRecord) -> None:
    record = make_record(overrides=("attn=hedgehog", "task.root=my data", "regime.recover.learning_rate=[1e-4,3e-4]"))
    text, is_own = command(record, None, None)
    assert text == "python run.py attn=hedgehog 'task.root=my data' 'regime.recover.learning_rate=[1e-4,3e-4]'"
    assert is_own


def test_an_older_record_gets_one_made_of_what_it_is(make_record: MakeRecord) -> None:
    text, is_own = command(make_record(seed=3), None, None)
    assert text == "python run.py regime=finetuned attn=hedgehog seed=3 task=movie_reviews"
    assert not is_own


@pytest.mark.parametrize(
    ("label", "expected"),
    [
        ("hedgehog", "ablation=none task.root=data/glue"),
        ("hedgehog (tie_maps=True)", "ablation=none task.root=data/glue attn.tie_maps=true"),
        ("hedgehog (distill.epochs=0)", "ablation=none task.root=data/glue regime.distill.epochs=0"),
    ],
)
def test_what_an_experiment_sweeps_is_pinned_and_what_a_run_changes_is_named(label: str, expected: str) -> None:
    (group,) = group_records(read_records(ROOT / "results" / "minilm_ablations")).values()
    rows = variants(group)
    usual = None if label == "hedgehog" else rows["hedgehog"][0]
    text, is_own = command(rows[label][0], ROOT / "experiments" / "minilm_ablations.yaml", usual)
    assert text == f"python run.py experiments=minilm_ablations attn=hedgehog seed=0 task=sst2 {expected}"
    assert not is_own
