import json
import logging
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
import wandb
from wandb_server import isolate_wandb

from mimicry.reporting import tracking
from mimicry.reporting.tracking import TrackedJob, resolve_mode, run_directory, wandb_run

CLOSED_PORT = "http://127.0.0.1:9"
JOB = TrackedJob("mimicry", "job1", "finetuned-hedgehog", "demo", "finetuned", ("toy",), {"optimizer": {"lr": 0.5}})


@pytest.fixture(autouse=True)
def isolated_wandb(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    isolate_wandb(tmp_path / "home", CLOSED_PORT, monkeypatch)
    yield
    wandb.teardown()


@contextmanager
def loopback_server(monkeypatch: pytest.MonkeyPatch, status: int) -> Iterator[None]:
    """A host that answers every request with `status` and no body."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.rfile.read(int(self.headers.get("content-length", 0)))
            self.send_response(status)
            self.send_header("content-length", "0")
            self.end_headers()

        do_POST = do_GET  # noqa: N815

        def log_message(self, *_: Any) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        monkeypatch.setenv("WANDB_BASE_URL", f"http://127.0.0.1:{server.server_port}")
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield
        server.shutdown()
        thread.join()


def log_records(run_folder: Path) -> dict[str, dict[str, Any]]:
    """The last record of each type in an offline run's log."""
    command = [sys.executable, "-m", "wandb", "leet", "inspect", "--json", str(run_folder)]
    lines = subprocess.run(command, check=True, capture_output=True, text=True).stdout.splitlines()
    return {record["type"]: record[record["type"]] for record in map(json.loads, lines)}


def test_an_unknown_mode_is_refused() -> None:
    with pytest.raises(ValueError, match="mode must be one of auto, online, offline, disabled, got 'dryrun'"):
        resolve_mode("dryrun")


@pytest.mark.parametrize("mode", ["online", "offline", "disabled"])
def test_an_explicit_mode_stays_as_it_is(mode: str) -> None:
    assert resolve_mode(mode) == (mode, "as asked")


def test_auto_is_offline_at_once_when_the_host_refuses(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WANDB_API_KEY", "a" * 40)
    # Were it waited for, it would be for longer than a test may take.
    monkeypatch.setattr(tracking, "PROBE_TIMEOUT_S", 1e6)
    assert resolve_mode("auto") == ("offline", f"{CLOSED_PORT} does not answer")


def test_auto_is_offline_in_time_when_the_host_is_silent(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tracking, "PROBE_TIMEOUT_S", 0.2)
    silent = ThreadingHTTPServer(("127.0.0.1", 0), BaseHTTPRequestHandler)
    monkeypatch.setenv("WANDB_BASE_URL", f"http://127.0.0.1:{silent.server_port}")
    with silent:
        mode, reason = resolve_mode("auto")
    assert mode == "offline"
    assert reason.endswith("does not answer")


def test_auto_is_offline_without_a_login(monkeypatch: pytest.MonkeyPatch) -> None:
    with loopback_server(monkeypatch, 200):
        mode, reason = resolve_mode("auto")
    assert mode == "offline"
    assert reason.startswith("not logged in to http://127.0.0.1:")


@pytest.mark.parametrize("status", [200, 404, 500])
def test_auto_is_online_with_a_login_and_a_host_that_answers_anything(
    monkeypatch: pytest.MonkeyPatch, status: int
) -> None:
    monkeypatch.setenv("WANDB_API_KEY", "a" * 40)
    with loopback_server(monkeypatch, status):
        assert resolve_mode("auto")[0] == "online"


def test_an_offline_run_keeps_its_files_and_tells_how_to_upload_them(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, capfd: pytest.CaptureFixture[str]
) -> None:
    with caplog.at_level(logging.INFO), wandb_run(JOB, tmp_path / "run", "offline") as run:
        run.log({"val/accuracy": 0.5, "trainer/global_step": 7})
    folder = run_directory(run)
    assert folder is not None
    assert folder.parent == tmp_path / "run" / "wandb"
    assert f"wandb sync {folder}" in caplog.text
    assert capfd.readouterr() == ("", "")
    records = log_records(folder)
    assert records["run"]["run_id"] == "job1"
    assert records["run"]["config"]["update"]["optimizer"] == {"lr": 0.5}
    assert records["history"]["item"]["val/accuracy"] == 0.5
    assert records["metric"]["step_metric"] == "trainer/global_step"
    assert records["exit"].get("exit_code", 0) == 0


def test_a_block_that_raises_leaves_a_failed_run(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    def fail() -> None:
        raise FloatingPointError("loss is nan")

    with pytest.raises(FloatingPointError, match="loss is nan"), wandb_run(JOB, tmp_path / "run", "offline") as run:
        fail()
    folder = run_directory(run)
    assert folder is not None
    assert log_records(folder)["exit"]["exit_code"] == 1
    assert capfd.readouterr() == ("", "")


def test_two_jobs_of_one_process_get_two_runs(tmp_path: Path) -> None:
    with wandb_run(JOB, tmp_path / "a", "offline") as first:
        pass
    with wandb_run(replace(JOB, id="job2"), tmp_path / "b", "offline") as second:
        pass
    assert first.id == "job1"
    assert second.id == "job2"
    assert len(list(tmp_path.glob("*/wandb/offline-run-*"))) == 2


def test_a_disabled_run_accepts_everything_and_writes_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    with wandb_run(JOB, tmp_path / "run", "disabled") as run:
        run.log({"val/accuracy": 0.5})
    assert run_directory(run) is None
    assert [path.name for path in tmp_path.iterdir()] == ["home"]


def test_online_without_a_login_raises_one_line_and_never_prompts(tmp_path: Path) -> None:
    message = "mode online needs a W&B login"
    with pytest.raises(ConnectionError, match=message), wandb_run(JOB, tmp_path / "run", "online"):
        pytest.fail("the block must not run")


def test_online_raises_one_line_when_the_host_turns_the_run_down(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("WANDB_API_KEY", "a" * 40)
    message = r"mode online could not start a W&B run: CommError: [^\n]*$"
    with (
        loopback_server(monkeypatch, 401),
        pytest.raises(ConnectionError, match=message),
        wandb_run(JOB, tmp_path / "run", "online"),
    ):
        pytest.fail("the block must not run")


def test_auto_goes_offline_and_says_why_when_the_host_turns_the_run_down(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setenv("WANDB_API_KEY", "a" * 40)
    with (
        caplog.at_level(logging.INFO),
        loopback_server(monkeypatch, 401),
        wandb_run(JOB, tmp_path / "run", "auto") as run,
    ):
        run.log({"val/accuracy": 0.5})
    folder = run_directory(run)
    assert folder is not None
    assert "offline-run" in folder.name
    assert "W&B offline (CommError" in caplog.text


@pytest.mark.parametrize("error", [None, KeyboardInterrupt])
def test_an_upload_that_does_not_end_is_a_warning_and_hides_no_error(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    error: type[BaseException] | None,
) -> None:
    class SlowRun:
        sync_dir = "run-folder"

        def define_metric(self, *_: Any, **__: Any) -> None:
            pass

        def finish(self, exit_code: int) -> None:
            raise TimeoutError

    monkeypatch.setattr(tracking, "_start", lambda *_: SlowRun())
    with nullcontext() if error is None else pytest.raises(error), wandb_run(JOB, tmp_path, "disabled"):
        if error is not None:
            raise error
    assert "wandb sync --include-online run-folder" in caplog.text
