"""The table of divergence by task and by what the maps were distilled on."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from mimicry.reporting.comparison import save_collection
from mimicry.reporting.run_record import Measurement, RunRecord
from mimicry.reporting.transfer import main, transfer_tables


@pytest.fixture
def records(make_record: Callable[..., RunRecord]) -> list[RunRecord]:
    def record(attn: str, task: str, corpus: str | None, seed: int, distilled: float | None) -> RunRecord:
        kls = {"no_train": 1.0, "distilled": distilled}
        metrics = tuple(
            Measurement("analysis/kl", value, "nats", state, "validation")
            for state, value in kls.items()
            if value is not None
        )
        metrics += (Measurement("val/accuracy", 0.5, "fraction", "teacher", "validation"),)
        data = make_record().data | {"maps_corpus": corpus and {"name": corpus, "rows": 9, "source": "x"}}
        return make_record(attn=attn, task=task, seed=seed, data=data, metrics=metrics)

    return [
        record("hedgehog", "cola", "cola", 0, 0.1),
        record("hedgehog", "cola", "cola", 1, 0.3),
        record("hedgehog", "rte", "cola", 0, 0.25),
        record("hedgehog", "rte", None, 0, 0.15),
        record("elu", "cola", None, 0, None),
        record("elu", "rte", None, 0, None),
        make_record(status="failed", reason="no"),
    ]


def test_rows_are_attentions_and_corpora_and_columns_tasks(records: list[RunRecord]) -> None:
    lines = transfer_tables(records).splitlines()
    assert "| attention | maps from | state | cola | rte | mean |" in lines
    assert "| hedgehog | – | no train | 1.000 | 1.000 | 1.000 |" in lines
    assert "| hedgehog | cola | distilled | 0.200 | 0.250 | 0.225 |" in lines
    # A gap is no zero, and enters no mean.
    assert "| hedgehog | the task | distilled | – | 0.150 | – |" in lines
    assert sum(line.startswith("| elu") for line in lines) == 1


def test_a_seed_that_ran_again_counts_once(records: list[RunRecord]) -> None:
    again = replace(records[1], started_at="2025-01-01T00:00:00+00:00")
    assert "| hedgehog | cola | distilled | 0.200 |" in transfer_tables([*records, again, again])


def test_the_command_writes_the_table(
    records: list[RunRecord], tmp_path: Path, capsys: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture
) -> None:
    save_collection(records, tmp_path / "records")
    assert main([str(tmp_path / "records"), "--save", str(tmp_path / "out")]) == 0
    assert (tmp_path / "out" / "transfer.md").read_text() == capsys.readouterr().out
    with caplog.at_level("ERROR"):
        assert main([str(tmp_path / "out")]) == 1
    assert caplog.messages == [f"roots must hold finished conversions, found none below {tmp_path / 'out'}"]
