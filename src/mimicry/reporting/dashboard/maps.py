"""Attention maps that a run has left as a file, small enough to be shown in a page."""

import json
import logging
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from mimicry.reporting.run_record import RECORD_NAME, RunRecord

# Beside a run's record; in a folder of collected records `attention_maps/<fingerprint>.json`.
FILE = "attention_maps.json"

_log = logging.getLogger(__name__)


def read_maps(record: RunRecord, place: Path) -> dict[str, Any] | None:
    """The maps of one run: tokens, shape (layers, heads, n, n) and base64 of uint8 = round(255 · weight).

    Args:
        record: of the run.
        place: the record's own file, or that of the collection it is in.

    Returns:
        None where there is no file, or none that can be shown, which is warned about.
    """
    path = place.parent / FILE if place.name == RECORD_NAME else _collected(place.parent, record)
    if not path.is_file():
        return None
    try:
        maps = json.loads(path.read_text(encoding="utf-8"))
        layers, heads, rows, columns = maps["shape"]
        if not rows == columns == len(maps["tokens"]):
            raise ValueError(f"tokens must name {rows} rows and {columns} columns, got {len(maps['tokens'])}")
        # Four characters of base64 stand for three bytes.
        expected = -(-layers * heads * rows * columns // 3) * 4
        for name in ("teacher", "student"):
            if maps[name] is not None and len(maps[name]) != expected:
                raise ValueError(f"{name} must be {expected} characters long, got {len(maps[name])}")
    except (ValueError, KeyError, TypeError) as error:
        _log.warning("ignoring attention maps: %s: %s", path, error)
        return None
    return {name: maps[name] for name in ("tokens", "shape", "teacher", "student")}


def collect_maps(single: Mapping[Path, RunRecord], folder: Path) -> None:
    """Copies the maps of the lowest seed of each attention and task to `folder`: one sentence shows what is to see."""
    first: dict[tuple[str, str], tuple[Path, RunRecord]] = {}
    for path, record in sorted(single.items(), key=lambda entry: entry[1].seed):
        if (path.parent / FILE).is_file():
            first.setdefault((record.task, record.attn), (path, record))
    for path, record in first.values():
        target = _collected(folder, record)
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(path.parent / FILE, target)


def _collected(folder: Path, record: RunRecord) -> Path:
    return folder / "attention_maps" / f"{record.fingerprint}.json"
