"""A dashboard built of records, for tests of its file and in a browser."""

from collections.abc import Callable
from pathlib import Path

import pytest
from dashboards import write_results

from mimicry.reporting.__main__ import main
from mimicry.reporting.run_record import RunRecord


@pytest.fixture(scope="session")
def page(make_record: Callable[..., RunRecord], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The dashboard's file, as the command writes it."""
    folder = tmp_path_factory.mktemp("dashboard")
    root = write_results(make_record, folder)
    file = root / "dashboard.html"
    assert main([str(root), "--experiments", str(folder / "experiments"), "--dashboard", str(file)]) == 0
    return file
