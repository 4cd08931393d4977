"""The lists of pins agree, and what is installed from a wheel works without the repository."""

import os
import re
import subprocess
import sys
import tomllib
import zipfile
from pathlib import Path

import pytest
import yaml
from packaging.requirements import Requirement

ROOT = Path(__file__).parents[2]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
DEPENDENCIES = [*PROJECT["dependencies"], *PROJECT["optional-dependencies"]["dev"]]

CONVERT = """
import torch
from transformers import BertConfig, BertModel

import mimicry

torch.manual_seed(0)
config = BertConfig(vocab_size=50, hidden_size=16, num_hidden_layers=2, num_attention_heads=2, intermediate_size=32)
converted = mimicry.convert(BertModel(config).eval(), "hedgehog")
tokens = torch.randint(0, 50, (2, 7))
expected = converted(tokens).last_hidden_state
assert expected.isfinite().all()
converted.save_pretrained("student")
assert torch.equal(mimicry.load("student")(tokens).last_hidden_state, expected)
print(mimicry.__file__)
"""


def pins(lines: list[str]) -> dict[str, str]:
    """Package name -> version specifier."""
    requirements = [Requirement(line) for line in lines]
    assert len({requirement.name for requirement in requirements}) == len(requirements)
    return {requirement.name: str(requirement.specifier) for requirement in requirements}


def requirements_txt() -> list[str]:
    lines = (ROOT / "requirements.txt").read_text(encoding="utf-8").splitlines()
    return [line for line in lines if line and not line.startswith("#")]


def environment_yml() -> list[str]:
    environment = yaml.safe_load((ROOT / "environment.yml").read_text(encoding="utf-8"))
    (block,) = [entry["pip"] for entry in environment["dependencies"] if isinstance(entry, dict)]
    assert block[-1] == "-e ."
    return block[:-1]


def test_the_three_dependency_lists_hold_the_same_pins() -> None:
    assert pins(requirements_txt()) == pins(environment_yml()) == pins(DEPENDENCIES)


def test_every_dependency_is_pinned_exactly() -> None:
    assert pins(DEPENDENCIES)["torch"].startswith("==")
    loose = [name for name, version in pins(DEPENDENCIES).items() if not re.fullmatch(r"==[\w.]+", version)]
    # CUDA builds of torch pin their own triton.
    assert loose == ["triton"]


def test_every_dependency_line_says_why_it_is_there() -> None:
    text = (ROOT / "pyproject.toml").read_text(encoding="utf-8")
    reasons = dict(re.findall(r'^    "([^"]+)", *# (.+)$', text, flags=re.MULTILINE))
    assert [line for line in DEPENDENCIES if line not in reasons] == []


def test_the_citation_names_the_version_and_the_paper() -> None:
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text(encoding="utf-8"))
    assert (citation["version"], citation["license"]) == (PROJECT["version"], PROJECT["license"])
    assert "arXiv:2402.04347" in str(citation["preferred-citation"]["identifiers"])


def test_the_layer_picture_shows_every_layer_from_top_to_bottom() -> None:
    contracts = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["tool"]["importlinter"][
        "contracts"
    ]
    layers = [name for layer in contracts[0]["layers"] for name in layer.split(" | ")]
    picture = (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8").split("```text")[1].split("```")[0]
    shown = [word for line in picture.splitlines() for word in re.split(r"  +| · ", line.strip()) if word in layers]
    assert shown == layers


def test_the_ci_script_runs_the_same_tests_as_a_person_would() -> None:
    assert (ROOT / ".ci" / "run").read_text(encoding="utf-8").splitlines()[-1] == "make test"


@pytest.mark.slow
def test_an_installed_wheel_converts_a_model_away_from_the_repository(tmp_path: Path) -> None:
    pip = [sys.executable, "-m", "pip", "--disable-pip-version-check"]
    subprocess.run([*pip, "wheel", "--no-deps", f"--wheel-dir={tmp_path}", "."], cwd=ROOT, check=True)
    (wheel,) = tmp_path.glob("mimicry-*.whl")
    variants = {path.name for path in (ROOT / "src/mimicry/attention/variants").glob("*.yaml")}
    with zipfile.ZipFile(wheel) as archive:
        names = archive.namelist()
    assert variants
    assert variants <= {Path(name).name for name in names if "attention/variants/" in name}
    assert {"page.html", "style.css", "main.js"} <= {
        Path(name).name for name in names if "reporting/dashboard/" in name
    }

    installed = tmp_path / "installed"
    subprocess.run([*pip, "install", "--no-deps", f"--target={installed}", str(wheel)], check=True)
    # The path comes before site-packages, where an editable install of this repository may lie.
    env = os.environ | {"PYTHONPATH": str(installed)}
    snippet = [sys.executable, "-c", CONVERT]
    done = subprocess.run(snippet, cwd=tmp_path, env=env, check=True, capture_output=True, text=True)
    assert done.stdout.splitlines()[-1].startswith(str(installed))
