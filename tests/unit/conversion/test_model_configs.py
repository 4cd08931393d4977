"""The files of conf/model that name models of text: complete, and read as plain values."""

import inspect
from pathlib import Path
from typing import Any

import pytest
from hydra.utils import get_class
from omegaconf import OmegaConf

from mimicry.app import build
from mimicry.conversion.checkpoint import Checkpoint
from mimicry.conversion.language_checkpoint import LanguageCheckpoint
from mimicry.data.glue_specs import GLUE_SPECS

CONF = Path(__file__).resolve().parents[3] / "conf/model"


def options_of(path: Path, task: str = "cola") -> dict[str, Any]:
    """The model's own options, wherever the file puts them, with the task's name filled in."""
    node = OmegaConf.load(path)
    node = node if "model" in node else OmegaConf.create({"model": node})
    return OmegaConf.to_container(OmegaConf.merge(node, {"task": {"name": task}}), resolve=True)["model"]


TEXT = [path for path in sorted(CONF.glob("*.yaml")) if get_class(options_of(path)["_target_"]) is Checkpoint]


@pytest.mark.parametrize("path", TEXT, ids=lambda path: path.stem)
def test_every_model_file_lists_every_option_and_builds_a_checkpoint_of_plain_values(path: Path) -> None:
    options = options_of(path)
    assert set(options) == {"_target_", *inspect.signature(Checkpoint).parameters}
    options |= {"teacher": "someone/donor-cola", "known_scores": {"cola": 0.5}}
    checkpoint = build(options)
    assert type(checkpoint.known_scores) is dict
    checkpoint.check()


@pytest.mark.parametrize("task", GLUE_SPECS)
def test_there_is_a_donor_with_a_known_score_for_every_glue_task(task: str) -> None:
    donor = build(options_of(CONF / "bert_base_donor.yaml", task))
    assert (donor.teacher, donor.max_length) == (f"JeremiahZ/bert-base-uncased-{task}", 128)
    assert set(donor.known_scores) == set(GLUE_SPECS)
    # The paper's BERT-FT row, in percent.
    row = {"cola": 58.8, "sst2": 93.2, "mrpc": 90.2, "stsb": 88.8, "qqp": 91.0, "mnli": 84.7, "qnli": 91.3, "rte": 68.2}
    assert donor.known_scores[task] * 100 == pytest.approx(row[task], abs=0.051)


LANGUAGE = [
    path for path in sorted(CONF.glob("*.yaml")) if get_class(options_of(path)["_target_"]) is LanguageCheckpoint
]


@pytest.mark.parametrize("path", LANGUAGE, ids=lambda path: path.stem)
def test_every_language_model_file_lists_every_option_and_builds_a_checkpoint(path: Path) -> None:
    options = options_of(path)
    assert set(options) == {"_target_", *inspect.signature(LanguageCheckpoint).parameters}
    build(options).check()


def test_the_paper_s_decoders_and_the_embedded_one_are_there() -> None:
    assert {path.stem for path in LANGUAGE} == {"gpt2", "llama2_7b", "smollm2"}
