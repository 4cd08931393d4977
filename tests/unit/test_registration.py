"""Who finds saved students, and who must not: seen from processes that start afresh."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
from families import tiny_model

import mimicry

MIMICRY_FIRST = """
import sys
import mimicry
assert "transformers" not in sys.modules and "torch" not in sys.modules
from transformers import AutoModelForSequenceClassification
print(type(AutoModelForSequenceClassification.from_pretrained(sys.argv[1])).__module__)
"""
TRANSFORMERS_FIRST = """
import sys
from transformers import AutoModelForSequenceClassification
import mimicry
print(type(AutoModelForSequenceClassification.from_pretrained(sys.argv[1])).__module__)
"""
WITHOUT = """
import sys
import transformers
for cls in ("AutoModelForSequenceClassification", "AutoModel", "BertForSequenceClassification"):
    try:
        getattr(transformers, cls).from_pretrained(sys.argv[1])
        print(cls, "loaded")
    except ValueError as error:
        print(cls, "refused", str(error).splitlines()[0])
"""


def run(script: str, folder: Path) -> str:
    command = [sys.executable, "-c", script, str(folder)]
    env = os.environ | {"PYTHONPATH": str(Path(mimicry.__file__).parents[1])}
    return subprocess.run(command, env=env, check=True, capture_output=True, text=True, timeout=250).stdout


@pytest.fixture(scope="module")
def student(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("student")
    mimicry.convert(tiny_model("bert"), "hedgehog").save_pretrained(folder)
    return folder


@pytest.mark.parametrize("script", [MIMICRY_FIRST, TRANSFORMERS_FIRST])
def test_whichever_is_imported_first_the_auto_classes_find_the_student(script: str, student: Path) -> None:
    assert run(script, student).strip() == "mimicry.conversion.converted"


def test_without_mimicry_nothing_loads_the_student_as_a_softmax_model(student: Path) -> None:
    auto, bare, host = run(WITHOUT, student).strip().splitlines()
    assert "AutoModelForSequenceClassification refused" in auto
    assert "model type `mimicry`" in auto
    assert "AutoModel refused" in bare
    # Its own class does not go by the type of the model, but by the attention that is asked for.
    assert 'BertForSequenceClassification refused Specified `attn_implementation="mimicry"` is not supported' in host
