"""Every option of every group composes, names only what its target takes, and commands shown to users compose."""

import contextlib
import functools
import math
import re
import shlex
from pathlib import Path

import pytest
from cli import REPO
from hydra import compose, initialize_config_dir
from hydra.core.override_parser.overrides_parser import OverridesParser
from omegaconf import OmegaConf

from mimicry.checks import check_config
from mimicry.data import lra
from mimicry.schema import import_target

CONF = REPO / "conf"
GROUPS = sorted(path for path in CONF.glob("*/*.yaml") if path.parent.name not in ("hydra", "debug", "budget"))
OPTIONS = [f"{path.parent.name}={path.stem}" for path in GROUPS if path.parent.name != "model"]
MODELS = [path.stem for path in GROUPS if path.parent.name == "model"]
EXPERIMENTS = sorted(
    path.relative_to(REPO / "experiments").with_suffix("").as_posix() for path in REPO.glob("experiments/**/*.yaml")
)
# The tables and figures of the paper, and three questions beyond it.
PAPER = (
    *("associative_recall", "cola_conversion", "spikiness", "monotonicity", "attention_fidelity", "map_transfer"),
    *("context_length", "lra", "wikitext103_scratch", "glue_conversion", "vit_imagenet", "gpt2_wikitext103"),
    *("llama2_samsum", "efficiency", "dimension_matched", "window_hybrid", "distillation_objectives"),
)
# Training rows of the released files, which are as many as are drawn.
LRA_ROWS = {"listops": 96000, "lra_text": 25000, "lra_retrieval": 147086, "lra_image": 45000, "pathfinder32": 160000}
README = (REPO / "README.md").read_text(encoding="utf-8")
COMMANDS = re.findall(r"^python run\.py (.*)$", README + (CONF / "config.yaml").read_text(encoding="utf-8"), re.M)


@pytest.fixture(autouse=True)
def _root(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MIMICRY_ROOT", str(REPO))


def composed(*overrides: str) -> dict:
    with initialize_config_dir(str(CONF), version_base="1.3"):
        config = compose("config", overrides=list(overrides))
    return OmegaConf.to_container(config, resolve=True, throw_on_missing=True)


@pytest.mark.parametrize("option", OPTIONS)
def test_every_option_composes_and_fits_its_constructor(option: str) -> None:
    plain = composed(option)
    if import_target(plain["model"]["_target_"], "model").modality == "language":
        # The default regime is for classifiers.
        plain = composed("regime=pretrained", option)
    check_config(plain)


@pytest.mark.parametrize("model", MODELS)
def test_every_model_composes_with_the_one_regime_that_is_for_its_kind(model: str) -> None:
    fitting = []
    for regime in (path.stem for path in CONF.glob("regime/*.yaml")):
        with contextlib.suppress(ValueError):
            check_config(composed(f"model={model}", f"regime={regime}"))
            fitting.append(regime)
    assert len(fitting) == 1, model


def test_every_budget_is_some_model_s_or_follows_a_task() -> None:
    tasks = {path.stem for path in CONF.glob("task/*.yaml")}
    assert {path.stem for path in CONF.glob("budget/*.yaml")} <= set(MODELS) | tasks


@pytest.mark.parametrize("task", LRA_ROWS)
def test_long_range_arena_is_trained_by_its_protocol(task: str) -> None:
    (row,) = re.findall(rf"^ +{task} +(\S+) +(\S+) +(\d+) ", lra.__doc__, re.M)
    steps, warmup, batch_size = (int(number.replace(",", "")) for number in row)
    plain = composed("experiments=lra", f"task={task}")
    assert plain == composed("experiments=lra", f"task={task}", f"budget={task}")
    regime, epochs = plain["regime"], plain["regime"]["train"]["epochs"]
    per_epoch = math.ceil((LRA_ROWS[task] - regime["holdout_rows"]) / batch_size)
    # Epochs are whole.
    assert abs(epochs * per_epoch - steps) <= 0.01 * steps
    assert plain["scheduler"]["decay"] == "linear"
    assert plain["scheduler"]["warmup"] * epochs * per_epoch == pytest.approx(warmup, rel=0.01)
    assert regime["train"] | {"learning_rate": 1e-4, "batch_size": batch_size, "max_rows": None} == regime["train"]
    optimizer = {name: plain["optimizer"][name] for name in ("eps", "weight_decay", "betas")}
    assert optimizer == {"eps": 1e-6, "weight_decay": 0.0, "betas": [0.9, 0.999]}
    assert plain["trainer"]["gradient_clip_val"] is None
    # No epoch is left out, and the best is kept.
    assert regime["patience"] == epochs


@pytest.mark.parametrize("task", ["cola", "mnli"])
def test_the_donor_follows_the_task(task: str) -> None:
    plain = composed("model=bert_base_donor", f"task={task}", "model.known_scores.cola=0.6")
    check_config(plain)
    assert plain["model"]["teacher"] == f"JeremiahZ/bert-base-uncased-{task}"
    assert plain["model"]["known_scores"] | {"cola": 0.6, "mnli": 0.847} == plain["model"]["known_scores"]


def test_a_known_score_can_be_given_for_any_model() -> None:
    plain = composed("model.teacher=someone/donor", "model.known_scores={movie_reviews: 0.9}")
    check_config(plain)
    assert plain["model"]["known_scores"] == {"movie_reviews": 0.9}


def test_the_smoke_overlay_composes_on_every_task() -> None:
    for path in CONF.glob("task/*.yaml"):
        plain = composed(f"task={path.stem}", "debug=smoke")
        check_config(plain)
        assert plain["task"]["max_train_rows"] == 64
    check_config(composed("regime=pretrained", "debug=smoke_pretrained"))


def test_the_command_line_wins_over_the_model_s_own_budgets() -> None:
    assert composed()["regime"]["teach"]["learning_rate"] == 2e-4
    assert composed("model=bert_base")["regime"]["teach"]["learning_rate"] == 2e-5
    assert composed("regime.teach.learning_rate=1e-3")["regime"]["teach"]["learning_rate"] == 1e-3


def test_a_regime_brings_its_model_and_the_command_line_wins_over_it() -> None:
    assert composed("regime=pretrained")["model"]["path"] == "asset:smollm2"
    assert composed("regime=pretrained", "model=gpt2")["model"]["path"] != "asset:smollm2"
    assert composed("regime=scratch")["task"]["_target_"].endswith("AssociativeRecall")
    assert composed("regime=scratch", "task=mqar")["task"]["_target_"].endswith("MultiQueryRecall")


@pytest.mark.parametrize("command", sorted(set(COMMANDS)))
def test_commands_shown_to_users_compose(command: str) -> None:
    words = [word for word in shlex.split(command, comments=True) if not word.startswith("-")]
    # Of a sweep's choices the first stands for all.
    overrides = [word if "[" in word else re.sub(r"=([^,]*),.*", r"=\1", word) for word in words]
    check_config(composed(*overrides))


def test_every_yaml_is_short_and_says_first_what_it_is() -> None:
    for path in CONF.rglob("*.yaml"):
        lines = path.read_text(encoding="utf-8").splitlines()
        assert lines[0].startswith("#"), path
        assert len(lines) <= (60 if path.name == "config.yaml" else 40), path


def test_a_wheel_carries_what_conf_attn_shows() -> None:
    assert (CONF / "attn").resolve() == Path(REPO, "src/mimicry/attention/variants").resolve()


@pytest.mark.parametrize(
    ("choice", "plugin"),
    [
        ("hydra/launcher=cores", "hydra_joblib_launcher"),
        ("hydra/launcher=local", "hydra_submitit_launcher"),
        ("hydra/launcher=slurm", "hydra_submitit_launcher"),
        ("hydra/sweeper=tuning", "hydra_optuna_sweeper"),
    ],
)
def test_a_launcher_or_sweeper_fits_its_plugin(choice: str, plugin: str) -> None:
    pytest.importorskip(f"hydra_plugins.{plugin}", reason='needs the extra "cluster"')
    with initialize_config_dir(str(CONF), version_base="1.3"):
        whole = compose("config", overrides=[choice], return_hydra_config=True)
    group = choice.partition("=")[0].removeprefix("hydra/")
    assert plugin in whole.hydra[group]._target_


@functools.cache
def sweep_of(name: str) -> tuple[dict, dict[str, list[str]]]:
    """An experiment's plain config, and the overrides each of its sweep's keys goes through."""
    with initialize_config_dir(str(CONF), version_base="1.3"):
        whole = compose("config", overrides=[f"experiments={name}"], return_hydra_config=True)
    assert whole.hydra.mode.name == "MULTIRUN"
    params = [f"{key}={value}" for key, value in whole.hydra.sweeper.params.items()]
    sweep = {
        override.get_key_element(): list(override.sweep_string_iterator())
        if override.is_sweep_override()
        else [override.get_value_element_as_str()]
        for override in OverridesParser.create().parse_overrides(params)
    }
    del whole.hydra
    return OmegaConf.to_container(whole, resolve=True, throw_on_missing=True), sweep


@pytest.mark.parametrize("name", EXPERIMENTS)
def test_an_experiment_says_what_it_claims_costs_and_aims_at_and_composes(name: str) -> None:
    lines = (REPO / "experiments" / f"{name}.yaml").read_text(encoding="utf-8").splitlines()
    assert [line.split(":")[0] for line in lines[1:4]] == ["# Claim", "# Command", "# Cost"]
    assert f"experiments={name}" in lines[2]
    assert len(lines) <= 40
    plain, sweep = sweep_of(name)
    assert plain["experiment"] == name
    for target in plain["targets"]:
        check_target(target)
    for key, choices in sweep.items():
        assert len(set(choices)) == len(choices)
        folder = CONF / key.partition("@")[0]
        if folder.is_dir():
            assert [choice for choice in choices if not (folder / f"{choice}.yaml").is_file()] == []
    # Every choice is there; one cell shows that they fit together.
    check_config(composed(f"experiments={name}", *(f"{key}={choices[-1]}" for key, choices in sweep.items())))


def check_target(target: dict) -> None:
    """The fields that `python -m mimicry.reporting` reads, with what they may hold."""
    assert target["quantity"] in ("score", "percent_of_teacher", "kl", "entropy", "perplexity", "monotonicity")
    assert target["stage"] in ("teacher", "no_train", "distilled", "recovered", "trained")
    assert (CONF / "attn" / f"{target['attn']}.yaml").is_file()
    assert target["source"]
    if "above" in target:
        assert (CONF / "attn" / f"{target['above']}.yaml").is_file()
        assert target["above"] != target["attn"]
    else:
        assert target["confidence"] in ("high", "medium", "uncertain")
        assert float(target["value"]) >= float(target["tolerance"]) > 0
    if "task" in target:
        assert (CONF / "task" / f"{target['task']}.yaml").is_file()
    if target.get("maps_from", "the task") != "the task":
        assert (CONF / "task" / f"{target['maps_from']}.yaml").is_file()
    known = {"quantity", "stage", "attn", "source", "above", "confidence", "value", "tolerance", "task", "maps_from"}
    assert target.keys() <= known


def test_no_two_experiments_are_the_same() -> None:
    wholes = [({**plain, "experiment": None, "targets": None}, sweep) for plain, sweep in map(sweep_of, EXPERIMENTS)]
    assert len(set(map(str, wholes))) == len(wholes)


def test_every_paper_claim_has_a_small_version() -> None:
    assert {*PAPER, *(f"mini/{name}" for name in PAPER)} <= set(EXPERIMENTS)
