"""Records as others may read them: without the paths of the machine that a run ran on."""

from dataclasses import replace
from pathlib import PurePosixPath, PureWindowsPath
from typing import Any

from mimicry.reporting.run_record import RunRecord


def portable(record: RunRecord) -> RunRecord:
    """The record with `path/to/<name>` for every absolute path in its config and its command line.

    What was read there is known by the fingerprint of the data, not by where it lay. The record's own fingerprint stays
    that of the config the run had.
    """
    overrides = None if record.overrides is None else tuple(map(_override, record.overrides))
    return replace(record, config=_plain(record.config), overrides=overrides)


def _plain(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _plain(entry) for key, entry in value.items()}
    if isinstance(value, list):
        return [_plain(entry) for entry in value]
    return _path(value) if isinstance(value, str) else value


def _override(text: str) -> str:
    name, equals, value = text.partition("=")
    return f"{name}{equals}{_path(value)}"


def _path(text: str) -> str:
    for kind in (PurePosixPath, PureWindowsPath):
        if kind(text).is_absolute():
            return f"path/to/{kind(text).name}"
    return text
