"""A stand-in for a W&B server: as much of its protocol as init, log, tables, finish and `wandb sync` take."""

import gzip
import json
import re
import threading
from collections import defaultdict
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
import wandb

ENTITY = {"name": "someone", "id": "RW50aXR5"}


@dataclass
class Received:
    """What clients have sent, by run id."""

    runs: dict[str, dict[str, Any]] = field(default_factory=lambda: defaultdict(dict))
    history: dict[str, list[dict[str, Any]]] = field(default_factory=lambda: defaultdict(list))
    summary: dict[str, dict[str, Any]] = field(default_factory=dict)
    exit_codes: dict[str, int] = field(default_factory=dict)
    files: dict[str, bytes] = field(default_factory=dict)
    operations: list[str] = field(default_factory=list)
    views: list[dict[str, Any]] = field(default_factory=list)


def isolate_wandb(home: Path, address: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """No settings, login or proxy of the user, and no host but `address`."""
    home.mkdir(exist_ok=True)
    # Of tests before this one: W&B keeps its service in the environment, and must not find a dead one there later.
    wandb.teardown()
    for variable in ("WANDB_API_KEY", "WANDB_MODE", "WANDB_IDENTITY_TOKEN_FILE", "WANDB_DIR"):
        monkeypatch.delenv(variable, raising=False)
    for variable in ("HOME", "WANDB_CONFIG_DIR", "WANDB_CACHE_DIR", "WANDB_DATA_DIR"):
        monkeypatch.setenv(variable, str(home))
    monkeypatch.setenv("NETRC", str(home / "netrc"))
    monkeypatch.setenv("WANDB_BASE_URL", address)
    monkeypatch.setenv("WANDB_ERROR_REPORTING", "false")
    monkeypatch.setenv("no_proxy", "127.0.0.1")


@contextmanager
def wandb_server() -> Iterator[tuple[str, Received]]:
    """Serves until the block ends; its address, and what it has received so far."""
    received = Received()

    class Handler(_Handler):
        pass

    Handler.received = received
    with _Server(("127.0.0.1", 0), Handler) as server:
        address = f"http://127.0.0.1:{server.server_port}"
        Handler.address = address
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        try:
            yield address, received
        finally:
            server.shutdown()
            thread.join()


class _Server(ThreadingHTTPServer):
    def handle_error(self, request: Any, client_address: Any) -> None:
        """Clients that end drop their connections."""


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    received: Received
    address: str

    def do_GET(self) -> None:
        self._answer({})

    def do_PUT(self) -> None:
        self.received.files[self.path] = self._body()
        self._answer({})

    def do_POST(self) -> None:
        body = json.loads(self._body() or b"{}")
        if self.path.endswith("/file_stream"):
            self._file_stream(self.path.split("/")[-2], body)
            self._answer({})
        elif self.path.endswith("/graphql"):
            self._answer({"data": self._graphql(body.get("query", ""), body.get("variables") or {})})
        else:
            self._answer({})

    def _file_stream(self, run: str, body: dict[str, Any]) -> None:
        for name, part in (body.get("files") or {}).items():
            lines = [json.loads(line) for line in part["content"] if line.startswith("{")]
            if name == "wandb-history.jsonl":
                self.received.history[run] += lines
            elif name == "wandb-summary.json":
                self.received.summary[run] = lines[-1]
        if body.get("complete"):
            self.received.exit_codes[run] = body["exitcode"]

    def _graphql(self, query: str, variables: dict[str, Any]) -> dict[str, Any]:
        operation = next((word for word in query.replace("(", " ").split() if word not in ("query", "mutation")), "")
        self.received.operations.append(operation)
        # UpsertBucket is answered by _upsert_bucket.
        answer = getattr(self, "_" + re.sub("(?<!^)(?=[A-Z])", "_", operation).lower(), None)
        return answer(variables) if answer else {}

    def _viewer(self, _: dict[str, Any]) -> dict[str, Any]:
        viewer = {**ENTITY, "entity": ENTITY["name"], "username": ENTITY["name"], "flags": "{}", "teams": {"edges": []}}
        return {"viewer": viewer}

    def _upsert_bucket(self, variables: dict[str, Any]) -> dict[str, Any]:
        run = variables.get("name") or variables.get("id")
        self.received.runs[run].update({key: value for key, value in variables.items() if value is not None})
        project = {"name": variables.get("project") or "mimicry", "entity": ENTITY}
        bucket = {"id": "UnVu", "name": run, "displayName": variables.get("displayName"), "config": "{}"}
        bucket |= {"sweepName": None, "project": project, "historyLineCount": 0}
        return {"upsertBucket": {"bucket": bucket, "inserted": True}}

    def _run_resume_status(self, _: dict[str, Any]) -> dict[str, Any]:
        return {"model": {"id": "TW9kZWw=", "name": "mimicry", "entity": ENTITY, "bucket": None}}

    def _create_run_files(self, variables: dict[str, Any]) -> dict[str, Any]:
        run = variables.get("run") or variables.get("runName")
        files = [{"name": name, "uploadUrl": f"{self.address}/files/{run}/{name}"} for name in variables["files"]]
        return {"createRunFiles": {"runID": "UnVu", "uploadHeaders": [], "files": files}}

    def _artifact_type(self, _: dict[str, Any]) -> dict[str, Any]:
        # No artifact has this name yet.
        return {"project": None}

    def _create_artifact(self, _: dict[str, Any]) -> dict[str, Any]:
        artifact = {"id": "QXJ0", "state": "COMMITTED", "artifactSequence": {"id": "U2Vx", "latestArtifact": None}}
        return {"createArtifact": {"artifact": artifact}}

    def _server_features_query(self, _: dict[str, Any]) -> dict[str, Any]:
        return {"serverInfo": {"features": []}}

    def _upsert_view(self, variables: dict[str, Any]) -> dict[str, Any]:
        self.received.views.append(variables)
        return {"upsertView": {"view": {"id": "Vmlldw==", "name": "nw-abc-v"}, "inserted": True}}

    _upsert_view2 = _upsert_view

    def _project_internal_id(self, _: dict[str, Any]) -> dict[str, Any]:
        return {"project": {"internalId": "UHJvamVjdA=="}}

    def _get_projects(self, _: dict[str, Any]) -> dict[str, Any]:
        node = {"id": "UHJv", "name": "mimicry", "entityName": ENTITY["name"]}
        node |= {"createdAt": "2024-01-01T00:00:00", "isBenchmark": False, "user": None}
        return {"models": {"edges": [{"node": node}], "pageInfo": {"endCursor": None, "hasNextPage": False}}}

    def _body(self) -> bytes:
        body = self.rfile.read(int(self.headers.get("content-length", 0)))
        return gzip.decompress(body) if self.headers.get("content-encoding") == "gzip" else body

    def _answer(self, body: dict[str, Any]) -> None:
        text = json.dumps(body).encode()
        self.send_response(200)
        self.send_header("content-type", "application/json")
        self.send_header("content-length", str(len(text)))
        self.end_headers()
        self.wfile.write(text)

    def log_message(self, *_: Any) -> None:
        pass
