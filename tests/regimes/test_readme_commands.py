"""Every command and example of the README is executed, on tiny models and data and with the smallest budgets.

A new command is found by itself. Of a sweep one job runs, and its other choices are composed.
"""

import shlex
import subprocess
import tomllib
from pathlib import Path
from typing import Any

import pytest
import readme
import torch
import transformers
from cli import REPO, run_here
from families import tiny_model
from hydra import compose, initialize_config_dir
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Override
from omegaconf import OmegaConf
from runs import records
from standins import PLACEHOLDER, StandIns

import mimicry
from mimicry import sweeps
from mimicry.attention.capture import attention_layers
from mimicry.reporting import __main__ as reporting
from mimicry.reporting import finding
from mimicry.reporting.run_record import read_record

CONF = REPO / "conf"
RUN = "python run.py"
SHOWN = readme.shell_commands()
RUNS = [command.removeprefix(RUN).strip() for command in SHOWN if command.startswith(f"{RUN} ")]
EXPERIMENTS = [f"{readme.EXPERIMENT}{name}" for name in readme.experiments()]
# The README names the small ones together, as experiments=mini/<id>.
FURTHER = [name for name in map(readme.EXPERIMENT.__add__, readme.experiment_files()) if name not in EXPERIMENTS]
# Other tests start these, in tests/slow/test_launchers.py and test_devices.py, or nothing here can: a job in a process
# of its own takes as long as all the commands here.
ELSEWHERE = ("hydra/launcher=", "hydra.launcher.", "trainer=ddp")
HELP, AGAIN, FOLLOW = f"{RUN} --help", f"from={PLACEHOLDER}run analysis=full", "python -m mimicry.sweeps --follow"
REPORTS = ("python -m mimicry.reporting", "python -m mimicry.reporting.finding results")
# Goes through every stage of a conversion.
TYPICAL = "hedgehog"


@pytest.fixture(scope="module")
def stand_ins(tmp_path_factory: pytest.TempPathFactory) -> StandIns:
    return StandIns(tmp_path_factory.mktemp("standins"))


@pytest.fixture(autouse=True)
def _at_home(stand_ins: StandIns, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """In a folder of its own, with teachers that all commands share, and no download."""
    monkeypatch.setenv("MIMICRY_ROOT", str(REPO))
    monkeypatch.setenv("MIMICRY_CACHE", str(stand_ins.folder / "cache"))
    monkeypatch.setattr("mimicry.assets.fetch", stand_ins.reviews)
    # A product in bfloat16 of the usual size takes many seconds on most CPUs.
    monkeypatch.setattr("mimicry.training.throughput.CPU_SIDE", 32)
    # Most of the rest is drawing.
    for module in ("plots", "analysis_plots"):
        monkeypatch.setattr(f"mimicry.reporting.{module}.DPI", 30)
    monkeypatch.chdir(tmp_path)


def composed(words: list[str], **options: bool) -> Any:
    with initialize_config_dir(str(CONF), version_base="1.3"):
        return compose("config", overrides=words, **options)


def choices(override: Override) -> list[str]:
    """What an override goes through in a sweep, one alone otherwise; every option of a group must be there."""
    if not override.is_sweep_override():
        return [str(override.input_line)]
    key, found = override.get_key_element(), list(override.sweep_string_iterator())
    folder = CONF / key.partition("@")[0]
    assert not folder.is_dir() or [name for name in found if not (folder / f"{name}.yaml").is_file()] == []
    return [f"{key}={value}" for value in found]


def job_of(words: list[str]) -> tuple[list[str], Any]:
    """One job of a command, and of the sweep of its experiment, if it has one; and its composed config."""
    parse = OverridesParser.create().parse_overrides
    job, config = first(parse(words)), None
    if any(word.startswith(readme.EXPERIMENT) for word in job):
        config = composed(job, return_hydra_config=True)
        given = [word.partition("=")[0] for word in job]
        params = config.hydra.sweeper.params.items()
        job += first(parse([f"{key}={value}" for key, value in params if key not in given]))
        del config.hydra
    # Other values of these make no other kind of run.
    if config is None or any(not word.startswith(("attn=", "seed=", readme.EXPERIMENT)) for word in job):
        config = composed(job)
    return job, OmegaConf.to_container(config, resolve=True, throw_on_missing=True)


def first(overrides: list[Override]) -> list[str]:
    """Of the choices of each the typical one, if it is among them."""
    found = map(choices, overrides)
    return [next((choice for choice in entry if choice.endswith(f"={TYPICAL}")), entry[0]) for entry in found]


def execute(command: str, stand_ins: StandIns, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    job, plain = job_of([word for word in shlex.split(command) if word != "-m"])
    tiny = stand_ins.overrides(plain)
    replaced = {word.partition("=")[0] for word in tiny}
    for word in job:
        assert PLACEHOLDER not in word or word.partition("=")[0] in replaced, f"tests/standins.py leaves {word}"
    sweep = ["-m"] if "-m" in command.split() else []
    run_here(monkeypatch, *sweep, *job, *tiny, "paths.results=results")
    (path,) = records(tmp_path)
    record = read_record(path)
    assert (record.status, record.reason) == ("finished", None)
    # What has run is what the command asks for.
    asked = dict(word.split("=", 1) for word in job)
    shown = {"regime": record.regime, "attn": record.attn, "model": record.choices["model"], "task": record.task}
    assert {group: asked.get(group, value) for group, value in shown.items()} == shown


def here(command: str) -> str:
    """Without what this file does not start."""
    return " ".join(word for word in command.split() if not word.startswith(ELSEWHERE))


def is_run(command: str) -> bool:
    return not command.startswith(("--help", "from="))


def dear(command: str) -> Any:
    """Marked slow if it analyses all of attention, whose figures take longer than everything else."""
    name = command.partition(readme.EXPERIMENT)[2].split(" ")[0]
    full = name and "/analysis: full" in (REPO / "experiments" / f"{name}.yaml").read_text(encoding="utf-8")
    return pytest.param(command, marks=pytest.mark.slow) if full else command


@pytest.mark.parametrize("command", [dear(c) for c in dict.fromkeys([*map(here, filter(is_run, RUNS)), *EXPERIMENTS])])
def test_a_command_runs(command: str, stand_ins: StandIns, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    execute(command, stand_ins, tmp_path, monkeypatch)


@pytest.mark.slow
@pytest.mark.parametrize("command", FURTHER)
def test_an_experiment_that_the_readme_does_not_name_runs_too(
    command: str, stand_ins: StandIns, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    execute(command, stand_ins, tmp_path, monkeypatch)


@pytest.mark.parametrize("command", [command for command in SHOWN if command.startswith("make ")])
def test_a_target_of_make_is_there(command: str) -> None:
    # What it runs is python run.py, python -m pytest or python -m mimicry.reporting, after an installation of minutes.
    planned = subprocess.run([*command.split(), "--dry-run"], cwd=REPO, capture_output=True, text=True, check=False)
    assert planned.returncode == 0, planned.stderr


def test_the_environment_and_the_extra_that_are_installed_are_there() -> None:
    project = tomllib.loads((REPO / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    for command in SHOWN:
        if command.startswith("conda env create -f "):
            assert (REPO / command.split()[-1]).is_file()
        if command.startswith("pip install -e "):
            assert shlex.split(command)[-1].strip(".[]") in project["optional-dependencies"]


def test_every_command_of_another_kind_has_a_test_here() -> None:
    """A new kind of command fails here: teach this file how to execute it."""
    known = ("make ", "conda env create -f ", "pip install -e ", *REPORTS, HELP, FOLLOW)
    other = [command for command in SHOWN if not command.startswith(f"{RUN} ") and not command.startswith(known)]
    assert other == []
    assert [command for command in RUNS if not is_run(command)] == [HELP.removeprefix(f"{RUN} "), AGAIN]


def test_help_shows_the_groups(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    assert HELP in SHOWN
    with pytest.raises(SystemExit) as left:
        run_here(monkeypatch, "--help")
    assert left.value.code == 0
    assert "attn: " in capsys.readouterr().out


def test_a_sweep_of_the_default_is_followed_reported_and_analysed_again(
    stand_ins: StandIns, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert {*REPORTS, FOLLOW} <= {*SHOWN}
    execute("-m attn=hedgehog", stand_ins, tmp_path, monkeypatch)
    monkeypatch.setattr("mimicry.sweeps.time.sleep", interrupt)
    assert sweeps.main(FOLLOW.split()[3:]) == 0
    assert "1 of 1 finished" in capsys.readouterr().out
    (folder,) = (path.parent for path in records(tmp_path))
    again = AGAIN.replace(f"{PLACEHOLDER}run", str(folder)).split()
    run_here(monkeypatch, *again, "analysis.rows=2", "trainer.accelerator=cpu")
    assert (folder / "analysis").is_dir()
    assert reporting.main(REPORTS[0].split()[3:]) == 0
    assert "hedgehog" in capsys.readouterr().out
    assert finding.main(REPORTS[1].split()[3:]) == 0
    assert capsys.readouterr().out


def interrupt(seconds: float) -> None:
    raise KeyboardInterrupt


def test_the_python_examples_run_one_after_the_other() -> None:
    model = tiny_model("llama")
    rows = torch.randint(5, 99, (4, 8))
    dataloader = [{"input_ids": rows, "attention_mask": torch.ones_like(rows)}] * 2
    names = {"model": model, "dataloader": dataloader, "AutoModelForCausalLM": transformers.AutoModelForCausalLM}
    students = []
    for block in readme.python_blocks():
        exec(compile(block, "README.md", "exec"), names)
        students.append(names["student"])
    assert len(students) >= 2
    assert len({id(student) for student in students}) == len(students)
    prompt = {"input_ids": rows, "attention_mask": torch.ones_like(rows)}
    # What was saved comes back linear, with the maps that were distilled.
    assert all(len(attention_layers(student)) == 2 for student in students)
    torch.testing.assert_close(students[-1](**prompt).logits, students[0](**prompt).logits)
    torch.testing.assert_close(mimicry.load("linear")(**prompt).logits, students[0](**prompt).logits)


@pytest.mark.parametrize(
    "text",
    [
        "```\npython run.py attn=elu   # a comment\n```\n",
        "A line:\n\n    python run.py attn=elu   # a comment\n",
        "In a sentence `python run.py\nattn=elu` stands.\n",
    ],
)
def test_a_new_command_is_found_wherever_it_stands(text: str) -> None:
    assert readme.shell_commands(text) == ["python run.py attn=elu"]


def test_the_experiments_of_the_table_are_found() -> None:
    text = "| a | `python run.py experiments=x` |\n| b | `experiments=y`, `z` |\n| `taylor` | no |\n"
    assert readme.experiments(text) == ["x", "y", "z"]
