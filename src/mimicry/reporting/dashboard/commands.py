"""The command that gives a run again."""

import json
import shlex
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml

from mimicry.reporting.run_record import KEYS_WITHOUT_EFFECT, RunRecord
from mimicry.reporting.variants import flat

# Options in which the runs of an experiment may differ, and which its command names anyway.
_NAMED = ("attn", "seed", "task")


def command(record: RunRecord, experiment: Path | None, usual: RunRecord | None) -> tuple[str, bool]:
    """A shell command, and whether it is the run's own.

    Records from before commands were kept get one made of the experiment they stand under.

    Args:
        record: of the run.
        experiment: file of the experiment; None for a run that stands alone.
        usual: run of the same table whose settings go without saying; None where there is no such run.
    """
    if record.overrides is not None:
        return _shell(record.overrides), True
    words = [f"{name}={getattr(record, name)}" for name in _NAMED]
    if experiment is None:
        return _shell([f"regime={record.regime}", *words]), False
    words = [f"experiments={experiment.stem}", *words, *_pinned(experiment, record)]
    root = record.config.get("task", {}).get("root")
    if root:
        words.append(f"task.root={root}")
    return _shell([*words, *(_overrides(usual.config, record.config) if usual else [])]), False


def _pinned(experiment: Path, record: RunRecord) -> list[str]:
    """What else the experiment sweeps, with this run's value where the config has it and otherwise `none`."""
    plain = yaml.safe_load(experiment.read_text(encoding="utf-8")) if experiment.is_file() else {}
    swept: Any = plain
    for key in ("hydra", "sweeper", "params"):
        swept = swept.get(key) or {} if isinstance(swept, Mapping) else {}
    values = dict(flat(record.config))
    words = []
    for name, choices in swept.items():
        if name in values and name not in _NAMED:
            words.append(f"{name}={_plain(values[name])}")
        elif name not in _NAMED and "none" in str(choices).split(","):
            words.append(f"{name}=none")
    return words


def _overrides(usual: Mapping[str, Any], config: Mapping[str, Any]) -> list[str]:
    """What to change in the usual settings to get these."""
    left, right = (dict(flat({k: v for k, v in c.items() if k not in KEYS_WITHOUT_EFFECT})) for c in (usual, config))
    changed = {name: value for name, value in right.items() if name in left and left[name] != value}
    return [f"{name}={_plain(value)}" for name, value in changed.items() if name not in _NAMED]


def _plain(value: Any) -> str:
    """A value as Hydra's command line takes it."""
    return value if isinstance(value, str) else json.dumps(value)


def _shell(words: Sequence[str]) -> str:
    return shlex.join(["python", "run.py", *words])
