import inspect
import subprocess
import sys
from pathlib import Path

import pytest
from hydra.utils import get_class, instantiate
from omegaconf import OmegaConf

CONF = Path(__file__).resolve().parents[3] / "conf/task"
# Tasks for data that only the user has.
NEEDS_A_FOLDER = ("image_folder", "lra_retrieval")


@pytest.mark.parametrize("path", sorted(CONF.glob("*.yaml")), ids=lambda path: path.stem)
def test_every_task_file_opens_with_a_comment_lists_every_option_and_builds_its_task(path: Path) -> None:
    assert path.read_text().startswith("# ")
    conf = OmegaConf.load(path)
    parameters = inspect.signature(get_class(conf["_target_"])).parameters
    assert set(conf) == {"_target_", *parameters}
    task = instantiate(conf)
    assert task.name == path.stem
    if path.stem in NEEDS_A_FOLDER:
        with pytest.raises(ValueError, match=r"set task\.root=DIR"):
            task.check()
    else:
        task.check()


def test_tasks_are_checked_without_importing_a_training_library() -> None:
    tasks = ("task", "glue", "movie_reviews", "images", "digits", "topics", "wikitext", "samsum")
    modules = f"import {', '.join(f'mimicry.data.{task}' for task in tasks)}, sys; print(*sys.modules)"
    loaded = subprocess.run([sys.executable, "-c", modules], capture_output=True, text=True, check=True).stdout.split()
    assert not {"torch", "lightning", "transformers", "datasets", "sklearn", "PIL"} & set(loaded)
