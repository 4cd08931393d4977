import json
import logging
import math
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from mimicry.reporting.run_record import (
    Measurement,
    RunRecord,
    StageTime,
    config_fingerprint,
    failure_reason,
    finished_record,
    read_record,
    run_folder,
    write_record,
)

MakeRecord = Callable[..., RunRecord]


def rewrite(path: Path, **changes: Any) -> None:
    path.write_text(json.dumps(json.loads(path.read_text(encoding="utf-8")) | changes), encoding="utf-8")


def test_a_record_read_back_equals_the_one_written(make_record: MakeRecord, tmp_path: Path) -> None:
    record = make_record()
    path = write_record(record, tmp_path / "new" / "folder")
    assert path == tmp_path / "new" / "folder" / "record.json"
    assert read_record(path) == record


def test_numbers_that_are_not_finite_become_null(make_record: MakeRecord, tmp_path: Path) -> None:
    values = (math.nan, math.inf, -math.inf)
    metrics = tuple(Measurement("val/accuracy", value, "fraction", "teacher", "validation") for value in values)
    path = write_record(make_record(metrics=metrics, data={"mean": math.nan}), tmp_path)
    assert "NaN" not in path.read_text(encoding="utf-8")
    assert "Infinity" not in path.read_text(encoding="utf-8")
    assert [entry.value for entry in read_record(path).metrics] == [None, None, None]
    assert read_record(path).data == {"mean": None}


def test_numpy_floats_are_stored_as_plain_numbers(make_record: MakeRecord, tmp_path: Path) -> None:
    path = write_record(make_record(wall_s=np.float64(1.5)), tmp_path)
    assert read_record(path).wall_s == 1.5


def test_a_crash_before_the_swap_leaves_the_old_record(
    make_record: MakeRecord, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = write_record(make_record(seed=1), tmp_path)

    def crash(*_: object) -> None:
        raise OSError("power cut")

    monkeypatch.setattr(os, "replace", crash)
    with pytest.raises(OSError, match="power cut"):
        write_record(make_record(seed=2), tmp_path)
    assert read_record(path).seed == 1
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"schema_version": 99}, "field 'schema_version' must be 1, got 99"),
        ({"extra": 1}, "field 'extra' is unknown"),
        ({"seed": "0"}, "field 'seed' must be of type int, got '0'"),
        ({"seed": True}, "field 'seed' must be of type int, got True"),
        ({"status": "running"}, "field 'status' must be one of finished, failed, got 'running'"),
        ({"stages": {}}, "field 'stages' must be a list"),
        ({"config": []}, "field 'config' must be an object"),
        ({"versions": {"torch": 2}}, "field 'versions.torch' must be of type str, got 2"),
        ({"metrics": [{"name": "val/accuracy"}]}, r"field 'metrics\[0\].split' is missing"),
        (
            {"stages": [{"stage": "x", "wall_s": 1, "steps": 1, "tokens_per_s": 1}]},
            r"field 'stages\[0\].stage' must be",
        ),
        ({"artifacts": {"figure": "/somewhere/figure.png"}}, r"artifacts\['figure'\] must be relative"),
        ({"status": "failed"}, "reason must be set for a failed run"),
    ],
)
def test_a_record_that_breaks_the_schema_is_refused_in_one_line(
    make_record: MakeRecord, tmp_path: Path, changes: dict[str, Any], message: str
) -> None:
    path = write_record(make_record(), tmp_path)
    rewrite(path, **changes)
    with pytest.raises(ValueError, match=message) as refused:
        read_record(path)
    assert str(refused.value).startswith(f"{path}: ")
    assert "\n" not in str(refused.value)


def test_a_record_without_a_field_is_refused(make_record: MakeRecord, tmp_path: Path) -> None:
    path = write_record(make_record(), tmp_path)
    plain = json.loads(path.read_text(encoding="utf-8"))
    del plain["commit"]
    path.write_text(json.dumps(plain), encoding="utf-8")
    with pytest.raises(ValueError, match="field 'commit' is missing"):
        read_record(path)


def test_a_record_that_could_not_be_read_back_is_not_written(make_record: MakeRecord, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="field 'wall_s' must be of type float, got None"):
        write_record(make_record(wall_s=math.nan), tmp_path)
    with pytest.raises(ValueError, match="value must be JSON data"):
        write_record(make_record(data={"folder": tmp_path}), tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_values_are_found_by_state_and_name(make_record: MakeRecord) -> None:
    record = make_record()
    assert record.value("distilled", "val/accuracy") == 0.72
    assert record.value("distilled", "analysis/kl") is None


def test_scores_keep_their_order_and_leave_losses_out(make_record: MakeRecord) -> None:
    assert make_record().score_names() == ["val/accuracy", "val/f1"]


def test_the_fingerprint_depends_on_values_and_not_on_key_order() -> None:
    config = {"seed": 0, "optimizer": {"lr": 1e-3, "name": "adamw"}}
    same = {"optimizer": {"name": "adamw", "lr": 1e-3}, "seed": 0}
    assert config_fingerprint(config) == config_fingerprint(same) == "91fefeb4b13b6ce0"
    assert config_fingerprint(config | {"seed": 1}) != config_fingerprint(config)


def test_the_fingerprint_ignores_only_keys_without_effect_and_only_at_the_top() -> None:
    config = {"seed": 0}
    for key in ("paths", "logger", "rerun"):
        assert config_fingerprint(config | {key: "anything"}) == config_fingerprint(config)
    for key in ("debug", "trainer", "model"):
        assert config_fingerprint(config | {key: "anything"}) != config_fingerprint(config)
    assert config_fingerprint({"model": {"paths": 1}}) != config_fingerprint({"model": {"paths": 2}})


def test_the_folder_names_the_run(tmp_path: Path) -> None:
    folder = run_folder(tmp_path, "finetuned", "minilm", "movie_reviews", "hedgehog", 3, "abc")
    assert folder.relative_to(tmp_path) == Path("finetuned/minilm/movie_reviews/hedgehog/seed3-abc")
    assert not folder.exists()


def test_only_a_finished_record_counts_as_finished(make_record: MakeRecord, tmp_path: Path) -> None:
    assert finished_record(tmp_path) is None
    write_record(make_record(status="failed", reason="ValueError: no"), tmp_path)
    assert finished_record(tmp_path) is None
    write_record(make_record(), tmp_path)
    assert finished_record(tmp_path) == make_record()


@pytest.mark.parametrize("content", ["", '{"schema_version": 1, "sta', "[]", '{"schema_version": 0}', "\x00\xff"])
def test_a_broken_record_counts_as_absent_with_a_warning(
    tmp_path: Path, content: str, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "record.json").write_bytes(content.encode("latin-1"))
    with caplog.at_level(logging.WARNING):
        assert finished_record(tmp_path) is None
    assert "record.json" in caplog.text


def test_a_failure_is_told_in_one_line() -> None:
    assert failure_reason(ValueError("lr must be > 0,\n  got -1")) == "ValueError: lr must be > 0, got -1"


def test_a_stage_without_tokens_has_no_token_rate(make_record: MakeRecord, tmp_path: Path) -> None:
    path = write_record(make_record(stages=(StageTime("distilled", 1.0, 5, None),)), tmp_path)
    assert read_record(path).stages[0].tokens_per_s is None
