"""Run records that a test has left behind."""

from pathlib import Path


def records(tmp_path: Path) -> list[Path]:
    """Those below `tmp_path/results`, sorted by path."""
    return sorted((tmp_path / "results").rglob("record.json"))
