"""What a saved student says of itself, here and on the way to the hub."""

import base64
import json
import os
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
from families import tiny_model
from huggingface_hub import ModelCard

import mimicry
from mimicry.conversion.model_card import base_name, restore_card, write_card


def card(folder: Path) -> ModelCard:
    return ModelCard.load(folder / "README.md")


def test_a_student_is_saved_with_a_card_that_names_its_base_its_attention_and_how_to_load_it(tmp_path: Path) -> None:
    model = tiny_model("llama")
    model.name_or_path = "someone/tiny-llama"
    mimicry.convert(model, "hedgehog", layers="0").save_pretrained(tmp_path)
    found = card(tmp_path)
    assert found.data.base_model == "someone/tiny-llama"
    assert found.data.library_name == "mimicry"
    assert found.data.pipeline_tag == "text-generation"
    assert found.data.license == "unknown"
    assert set(found.data.tags) == {"hedgehog", "linear-attention", "mimicry", "softmax"}
    assert "`hedgehog` in layers 0; `softmax` in layers 1" in found.text
    assert "look it up before you share these weights" in found.text
    assert 'AutoModelForCausalLM.from_pretrained("this folder or repository")' in found.text


def test_the_loading_lines_of_a_card_work(tmp_path: Path) -> None:
    for family in ("bert", "vit", "llama"):
        mimicry.convert(tiny_model(family), "elu").save_pretrained(tmp_path / family)
        code = card(tmp_path / family).text.split("```python\n")[1].split("```")[0]
        names: dict[str, object] = {}
        exec(code.replace("this folder or repository", str(tmp_path / family)), names)
        assert type(names["model"]).__module__ == "mimicry.conversion.converted"


def test_a_card_that_is_there_stays(tmp_path: Path) -> None:
    (tmp_path / "README.md").write_text("mine")
    mimicry.convert(tiny_model("bert"), "elu").save_pretrained(tmp_path)
    assert (tmp_path / "README.md").read_text() == "mine"


WITHOUT = """
import sys
from transformers import AutoModelForCausalLM, LlamaForCausalLM

for load, options in ((AutoModelForCausalLM, {}), (AutoModelForCausalLM, {"attn_implementation": "sdpa"}),
                      (LlamaForCausalLM, {}), (LlamaForCausalLM, {"attn_implementation": "sdpa"})):
    try:
        load.from_pretrained(sys.argv[1], **options)
        print("loads")
    except (ValueError, ImportError):
        print("refuses")
"""


def test_a_card_tells_what_the_host_library_alone_does_with_the_folder(tmp_path: Path) -> None:
    mimicry.convert(tiny_model("llama"), "hedgehog").save_pretrained(tmp_path)
    text = " ".join(card(tmp_path).text.split())
    assert "the Auto classes do not know the model's type and refuse to load it." in text
    assert "does load these weights, as softmax attention and with a warning that some are unexpected" in text
    command = [sys.executable, "-c", WITHOUT, str(tmp_path)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=250, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stdout.split() == ["refuses", "refuses", "refuses", "loads"]
    assert "UNEXPECTED" in done.stderr


def test_our_card_follows_the_model_that_is_saved_over_another(tmp_path: Path) -> None:
    model = tiny_model("bert")
    mimicry.convert(model, "hedgehog").save_pretrained(tmp_path)
    mimicry.convert(model, "elu").save_pretrained(tmp_path)
    assert "`elu` in layers 0-1" in card(tmp_path).text
    assert "hedgehog" not in (tmp_path / "README.md").read_text()
    # As a run leaves it: what was measured is not that of other weights.
    write_card(mimicry.convert(model, "elu"), tmp_path, measured="## Measured\n\nmuch\n", licence="apache-2.0")
    mimicry.convert(model, "relu").save_pretrained(tmp_path)
    assert "## Measured" not in card(tmp_path).text


def test_our_card_is_known_again_after_its_front_matter_was_written_anew(tmp_path: Path) -> None:
    model = tiny_model("bert")
    mimicry.convert(model, "hedgehog").save_pretrained(tmp_path)
    # As the host library does with the card of a repository that it pushes to.
    fetched = card(tmp_path)
    fetched.data.tags.append("mine")
    fetched.save(tmp_path / "README.md")
    restore_card(mimicry.convert(model, "elu"), tmp_path)
    assert "`elu` in layers 0-1" in card(tmp_path).text


@pytest.mark.parametrize(
    "edit", [lambda text: f"{text}\nMore.", lambda text: text.partition("\n---\n")[2], "\xff".format]
)
def test_our_card_stays_once_somebody_has_edited_it(edit: Callable[[str], str], tmp_path: Path) -> None:
    model, path = tiny_model("bert"), tmp_path / "README.md"
    mimicry.convert(model, "hedgehog").save_pretrained(tmp_path)
    edited = edit(path.read_text()).encode("latin-1")
    path.write_bytes(edited)
    student = mimicry.convert(model, "elu")
    student.save_pretrained(tmp_path)
    restore_card(student, tmp_path)
    assert path.read_bytes() == edited


def test_a_known_licence_and_what_was_measured_stand_in_the_card(tmp_path: Path) -> None:
    model = tiny_model("bert")
    model.name_or_path = "a/b"
    write_card(mimicry.convert(model, "elu"), tmp_path, measured="## Measured\n\nmuch\n", licence="apache-2.0")
    found = card(tmp_path)
    assert (found.data.license, found.data.base_model) == ("apache-2.0", "a/b")
    assert "That of a/b: apache-2.0." in found.text
    assert "## Measured\n\nmuch\n" in found.text


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("someone/model", "someone/model"),
        ("/home/me/models/mine", "mine"),
        ("./models/mine", "mine"),
        ("models/of/mine", "mine"),
        ("gpt2", "gpt2"),
        ("", None),
    ],
)
def test_of_a_path_only_the_name_is_told(name: str, expected: str | None) -> None:
    model = tiny_model("bert")
    model.name_or_path = name
    assert base_name(model) == expected
    # A student of a student is made from the same.
    again = mimicry.convert(mimicry.convert(model, "elu"), "relu")
    assert base_name(again) == expected


class Hub(BaseHTTPRequestHandler):
    """As much of the hub's interface as an upload takes; keeps the files of the one commit."""

    files: dict[str, bytes]

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["Content-Length"]))
        if self.path == "/api/repos/create":
            self.answer(200, {"url": f"http://{self.headers['Host']}/someone/student"})
        elif self.path == "/api/validate-yaml":
            self.answer(200, {"errors": [], "warnings": []})
        elif "/preupload/" in self.path:
            asked = json.loads(body)["files"]
            kinds = [{"path": file["path"], "uploadMode": "regular", "shouldIgnore": False} for file in asked]
            self.answer(200, {"files": kinds})
        elif "/commit/" in self.path:
            lines = [json.loads(line) for line in body.splitlines()]
            values = [line["value"] for line in lines if line["key"] == "file"]
            Hub.files = {value["path"]: base64.b64decode(value["content"]) for value in values}
            self.answer(200, {"commitUrl": f"http://{self.headers['Host']}/someone/student/commit/1", "commitOid": "1"})
        else:
            self.answer(404, {})

    def do_GET(self) -> None:
        self.answer(404, {}, code="EntryNotFound")

    def do_HEAD(self) -> None:
        self.do_GET()

    def answer(self, status: int, plain: object, code: str | None = None) -> None:
        text = json.dumps(plain).encode()
        self.send_response(status)
        if code is not None:
            self.send_header("X-Error-Code", code)
        self.send_header("Content-Length", str(len(text)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(text)

    def log_message(self, *_: object) -> None:
        """Nothing: the test reads what was sent."""


@pytest.fixture
def hub() -> Iterator[str]:
    server = ThreadingHTTPServer(("127.0.0.1", 0), Hub)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_address[1]}"
    server.shutdown()
    server.server_close()


PUSH = """
import sys
import mimicry
mimicry.load(sys.argv[1]).push_to_hub("someone/student", token="hf_none")
"""


def test_a_student_is_pushed_to_the_hub_with_its_card(hub: str, tmp_path: Path) -> None:
    mimicry.convert(tiny_model("bert"), "hedgehog").save_pretrained(tmp_path)
    settings = {
        "HF_ENDPOINT": hub,
        "HF_HUB_OFFLINE": "0",
        "HF_HOME": str(tmp_path / "cache"),
    }
    env = os.environ | settings | {"PYTHONPATH": str(Path(mimicry.__file__).parents[1])}
    command = [sys.executable, "-c", PUSH, str(tmp_path)]
    done = subprocess.run(command, env=env, capture_output=True, text=True, timeout=250, check=False)
    assert done.returncode == 0, done.stderr
    assert set(Hub.files) == {"README.md", "config.json", "model.safetensors"}
    assert Hub.files["README.md"] == (tmp_path / "README.md").read_bytes()
    assert json.loads(Hub.files["config.json"])["model_type"] == "mimicry"
    assert Hub.files["model.safetensors"] == (tmp_path / "model.safetensors").read_bytes()
