"""The command line: config in, run record out. The only module that imports Hydra and OmegaConf."""

import inspect
import logging
import math
import os
import re
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import hydra
from hydra.core.hydra_config import HydraConfig
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Glob
from hydra.errors import HydraException, InstantiationException, MissingConfigException
from hydra.types import RunMode
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import ConfigAttributeError, ConfigKeyError, OmegaConfBaseException

from mimicry.assets import AssetError
from mimicry.checks import changed_since, check_config, check_devices
from mimicry.ranks import is_main_process, started_together
from mimicry.schema import import_target

if TYPE_CHECKING:
    from mimicry.reporting.run_record import RunRecord

log = logging.getLogger("mimicry")

# What bad input, a missing network or diverging training raises; anything else is a bug and keeps its traceback.
EXPECTED = (ValueError, OSError, FloatingPointError, AssetError)
# What may stand beside `from` on the command line.
WITH_FROM = ("from", "analysis", "trainer")
# Parts of Hydra's messages that do not help: where it looked, and advice to add with + what no constructor accepts.
NOISE = ("To append to", "Config search path", "provider=", "full_key", "object_type", "reference_type", "Available")


def main(conf: Path) -> None:
    """Runs the command line with the config folder `conf`; a refusal is one line on standard error and exit code 1."""
    # Hydra would print its own many lines and exit; with this it lets errors through to us.
    os.environ["HYDRA_FULL_ERROR"] = "1"
    try:
        hydra.main(config_path=str(conf), config_name="config", version_base="1.3")(run)()
    except (HydraException, OmegaConfBaseException) as error:
        sys.exit(f"error: {composition_error(error)}")
    except EXPECTED as error:
        if os.environ.get("MIMICRY_TRACEBACK"):
            raise
        sys.exit(f"error: {' '.join(str(error).split())}")
    except KeyboardInterrupt:
        sys.exit("error: interrupted; the same command goes on from what was kept")


def composition_error(error: Exception) -> str:
    """Hydra's many lines as one: what is wrong, and what there is to choose from."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    if isinstance(error, MissingConfigException) and error.options:
        return f"{lines[0].removeprefix('In ')}; choose one of {', '.join(error.options)}"
    unknown = error.__cause__
    if isinstance(unknown, ConfigAttributeError | ConfigKeyError) and isinstance(unknown.parent_node, DictConfig):
        if takes(unknown.parent_node, str(unknown.key)):
            return f"{unknown.full_key}: left to its default so far; set it with +{unknown.full_key}=VALUE"
        keys = [str(key) for key in unknown.parent_node if key != "hydra" and not str(key).startswith("_")]
        return f"{unknown.full_key}: no such option; there are {', '.join(keys) or 'none'}"
    return "; ".join(line.rstrip(".") for line in lines if not line.startswith(NOISE))


def takes(node: DictConfig, option: str) -> bool:
    """Whether what a part of the config describes has such an option, unlisted though it is."""
    target = node.get("_target_")
    return target is not None and option in inspect.signature(import_target(target, "config")).parameters


def run(config: DictConfig) -> float | None:
    """One job, followed if it is one of a sweep. Returns what a sweeper maximises."""
    set_up_logging()
    plain: Any = OmegaConf.to_container(config, resolve=True, throw_on_missing=True)
    about = HydraConfig.get()
    # No setting of a run: one that is analysed again is the same run.
    source = plain.pop("from")
    if source is not None:
        check_source(source, list(about.overrides.task))
        check_config(plain)
        return analyse_again(source, plain)
    if about.mode != RunMode.MULTIRUN:
        return run_job(plain, about.runtime.choices)[0]
    from mimicry.sweeps import Job, followed

    sweep = Path(about.runtime.output_dir).parent
    total, keys = swept(sweep / "multirun.yaml")
    differs = [text for text in about.overrides.task if not keys or text.partition("=")[0] in keys]
    job = Job(about.job.num, " ".join(differs), total)
    with followed(job, sweep, plain["fail_fast"]) as tells:
        check_devices(plain["trainer"])
        score, tells.reused = run_job(plain, about.runtime.choices)
    return score


def swept(sweep: Path) -> tuple[int | None, list[str]]:
    """Of a sweep, from what Hydra has written about it: how many jobs it has, and the keys in which they differ.

    None and no keys where the sweeper decides as it goes, and writes nothing.
    """
    if not sweep.is_file():
        return None, []
    about = OmegaConf.load(sweep).hydra
    texts = [f"{key}={value}" for key, value in (about.sweeper.params or {}).items()]
    parsed = OverridesParser.create().parse_overrides([*texts, *about.overrides.task])
    # Of two overrides of one key the later wins.
    last = {override.get_key_element(): override for override in parsed}
    choices = {key: override for key, override in last.items() if override.is_sweep_override()}
    if any(isinstance(override.value(), Glob) for override in choices.values()):
        return None, list(choices)
    return math.prod(len([*override.sweep_iterator()]) for override in choices.values()), list(choices)


def run_job(plain: dict[str, Any], choices: Any) -> tuple[float | None, bool]:
    """Shows the record of an equal finished run, or runs and writes one.

    Returns:
        What a sweeper maximises, and whether the record was an earlier run's.
    """
    check_config(plain)

    from mimicry.conversion.checkpoint import Checkpoint
    from mimicry.reporting.run_record import config_fingerprint, finished_record, run_folder

    checkpoint: Checkpoint = build(plain["model"], "model")
    identity = {"regime": choices["regime"], "model": checkpoint.name, "task": choices["task"], "attn": choices["attn"]}
    fingerprint = config_fingerprint(plain)
    folder = run_folder(
        Path(plain["paths"]["results"]) / "runs", **identity, seed=plain["seed"], fingerprint=fingerprint
    )
    # Processes that start together look when they have met.
    record = None if plain["rerun"] or started_together() else finished_record(folder)
    earlier = record is not None
    if record is not None:
        log.info("Finished earlier: showing its record (rerun=true runs it again).")
        for changed in changed_since(plain, record.started_at):
            log.warning("%s has changed since that run, whose record may not hold for what lies there now.", changed)
    else:
        # Imports torch, lightning and transformers: late, so that refusals and finished runs need not wait for them.
        from mimicry.execution import run_and_record

        groups = {group: choice for group, choice in choices.items() if choice and not group.startswith("hydra/")}
        # Where results lie is this machine's matter.
        overrides = tuple(word for word in HydraConfig.get().overrides.task if not word.startswith("paths."))
        command = {"choices": groups, "overrides": overrides}
        record = run_and_record(build, plain, identity | command, fingerprint, folder)
    if is_main_process():
        from mimicry.reporting.asked import note_experiment
        from mimicry.reporting.console import show

        if choices.get("experiments"):
            note_experiment(folder, choices["experiments"])
        show(record, folder)
    return objective(record), earlier


def analyse_again(source: str, plain: dict[str, Any]) -> float | None:
    """Analyses the student of a finished run with the analysis and the trainer of this command."""
    from mimicry.reanalysis import analyse_run
    from mimicry.reporting.console import show

    folder = Path(source)
    record = analyse_run(build, folder, plain)
    show(record, folder)
    return objective(record)


def check_source(source: Any, overrides: list[str]) -> None:
    """Refuses what is no folder, and settings that the run itself has; ValueError with one line."""
    if not isinstance(source, str) or not (Path(source) / "record.json").is_file():
        raise ValueError(f"from must be the folder of a finished run, which holds record.json, got {source}")
    for override in overrides:
        name = override.lstrip("+~").partition("=")[0]
        if name.partition(".")[0] not in WITH_FROM:
            raise ValueError(f"from takes {' and '.join(WITH_FROM[1:])} alone, all else is the run's, got {name}")


def objective(record: "RunRecord") -> float | None:
    """What a sweeper maximises: the last stage on its held-out rows if it chose on them, else its primary score.

    A loss counts negative. None where there is no score.
    """
    last, name = record.stages[-1].stage, record.score_names()[0]
    held_out = next((trial.held_out for trial in record.trials if trial.stage == last and trial.chosen), None)
    if held_out is not None:
        return held_out
    measured = next(entry for entry in record.metrics if entry.stage == last and entry.name == name)
    return -measured.value if measured.value is not None and measured.unit.startswith("nats") else measured.value


def build(options: dict[str, Any], where: str = "") -> Any:
    """The object a config describes; its lists and dicts arrive as plain ones.

    Args:
        options: with a `_target_`.
        where: dotted path of the options in the config, for messages.

    Raises:
        ValueError: what a constructor refuses, with the path of the option.
    """
    try:
        return hydra.utils.instantiate(options, _convert_="all")
    except InstantiationException as error:
        refusal = error.__cause__
        if not isinstance(refusal, ValueError):
            raise
        inside = re.search(r"^full_key: (.+)$", str(error), re.MULTILINE)
        places = [*where.split("."), *(inside[1].split(".") if inside else ())]
        # Some refusals name the end of the path themselves.
        said = next((i for i in range(len(places)) if str(refusal).startswith(".".join(places[i:]) + ".")), len(places))
        raise ValueError(".".join([*filter(None, places[:said]), str(refusal)])) from error


def set_up_logging() -> None:
    """Our own log lines on standard error, never wrapped; other libraries only when something is wrong."""
    log.handlers = [logging.StreamHandler()]
    log.setLevel(logging.INFO)
    log.propagate = False
