import json
import logging
from collections.abc import Callable
from pathlib import Path

import pytest
from dashboards import attention_maps

from mimicry.reporting.__main__ import main
from mimicry.reporting.dashboard.maps import read_maps
from mimicry.reporting.run_record import COLLECTION_NAME, RunRecord, write_record

MakeRecord = Callable[..., RunRecord]


def test_maps_are_read_beside_a_record(make_record: MakeRecord, tmp_path: Path) -> None:
    record = make_record()
    place = write_record(record, tmp_path)
    assert read_maps(record, place) is None
    (tmp_path / "attention_maps.json").write_text(json.dumps(attention_maps()), encoding="utf-8")
    assert read_maps(record, place) == attention_maps()


def test_saving_records_keeps_the_maps_of_one_seed_of_each_attention(make_record: MakeRecord, tmp_path: Path) -> None:
    for seed in (1, 0):
        record = make_record(seed=seed, fingerprint=f"{seed:016d}")
        write_record(record, tmp_path / "runs" / str(seed))
        (tmp_path / "runs" / str(seed) / "attention_maps.json").write_text(json.dumps(attention_maps()))
    assert main([str(tmp_path / "runs"), "--save", str(tmp_path / "kept")]) == 0
    (file,) = (tmp_path / "kept" / "attention_maps").iterdir()
    assert file.name == f"{0:016d}.json"
    assert read_maps(make_record(fingerprint=f"{0:016d}"), tmp_path / "kept" / COLLECTION_NAME) == attention_maps()


@pytest.mark.parametrize(
    ("change", "complaint"),
    [
        ({"tokens": ["one"]}, "tokens must name 5 rows and 5 columns, got 1"),
        ({"student": "AAAA"}, "student must be 200 characters long, got 4"),
        ({"shape": [2, 3, 5]}, "not enough values to unpack"),
    ],
)
def test_maps_that_do_not_fit_together_are_left_out_and_warned_about(
    make_record: MakeRecord, tmp_path: Path, caplog: pytest.LogCaptureFixture, change: dict[str, object], complaint: str
) -> None:
    record = make_record()
    place = write_record(record, tmp_path)
    (tmp_path / "attention_maps.json").write_text(json.dumps(attention_maps() | change), encoding="utf-8")
    with caplog.at_level(logging.WARNING):
        assert read_maps(record, place) is None
    assert complaint in caplog.text
