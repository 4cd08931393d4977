"""What a process knows about those it runs with before and without meeting them; with them: test_devices.py."""

import pytest

from mimicry.ranks import SIZES, agreed, have_met, started_together


@pytest.mark.parametrize(
    ("environment", "together"),
    [({}, False), ({"WORLD_SIZE": "1"}, False), ({"WORLD_SIZE": "2"}, True), ({"SLURM_NTASKS": "4"}, True)],
)
def test_processes_that_a_launcher_starts_know_of_each_other_before_they_meet(
    environment: dict[str, str], together: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    for size in SIZES:
        monkeypatch.delenv(size, raising=False)
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    assert started_together() == together


def test_one_process_agrees_with_itself() -> None:
    assert not have_met()
    assert agreed({"found": 1}) == {"found": 1}
