"""The run record: one JSON file per run, the truth from which tables and figures are rebuilt.

Names both sides agree on. A measurement says what was measured (`name`), on which state of the model (`stage`) and on
which rows (`split`):

    val/<metric>                 score of the task; the first one listed is the task's primary metric
    analysis/kl                  mean KL divergence of the student's attention from the teacher's, nats
    analysis/entropy             mean entropy of the attention weights, nats
    analysis/<what>/layer_<nn>   the same per layer

Scores are fractions in [0, 1], correlations in [-1, 1], or mean negative log-likelihoods `val/nll_token` and
`val/nll_word` in nats per token and per word; percent and perplexity appear only in tables.
"""

import hashlib
import json
import logging
import os
from dataclasses import dataclass
from pathlib import Path, PurePosixPath, PureWindowsPath
from typing import Any, Literal

from mimicry.reporting.schema import from_plain, to_plain
from mimicry.reporting.series import Curve, HeadGrid

SCHEMA_VERSION = 1
RECORD_NAME = "record.json"
# Records kept together, one a line: small enough to commit, and all that a table needs.
COLLECTION_NAME = "records.jsonl"
SCORE_PREFIX = "val/"
KL = "analysis/kl"
ENTROPY = "analysis/entropy"

ModelState = Literal["teacher", "no_train", "distilled", "recovered", "trained"]
Unit = Literal["fraction", "nats", "correlation", "nats/token", "nats/word"]
CONVERSION: tuple[ModelState, ...] = ("teacher", "no_train", "distilled", "recovered")

# Where files go, where metrics are mirrored, whether an old result may be reused, how often checkpoints are written,
# how adapters are saved, for which experiment a run was asked and what others report, whether a sweep goes on after a
# failure: none of them changes a number.
KEYS_WITHOUT_EFFECT = frozenset(
    {"paths", "logger", "rerun", "fail_fast", "checkpoint_minutes", "adapters", "experiment", "targets"}
)

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class OutputPaths:
    """Where results are written: run records under `<results>/runs`, sweep logs under `<results>/sweeps`."""

    results: str


@dataclass(frozen=True)
class Measurement:
    """One number: `value` is None when it was not finite; `stage` is the state of the model it was measured on."""

    name: str
    value: float | None
    unit: Unit
    stage: ModelState
    split: str


@dataclass(frozen=True)
class StageTime:
    """Cost of reaching a state of the model: seconds, optimizer steps, tokens per second where tokens were counted.

    With `reused` the state was taken from an earlier run of the same settings, and the numbers are that run's.
    """

    stage: ModelState
    wall_s: float
    steps: int
    tokens_per_s: float | None
    reused: bool = False


@dataclass(frozen=True)
class TrialRecord:
    """One candidate of a stage: its settings, cost, and how it did on the training rows held out for choosing.

    `stage` is the state it led to. `held_out` is the task's primary metric, or minus the divergence in nats where maps
    were distilled, or minus a loss; None when there was no other candidate, or this one diverged or had no finite
    score. `trained_parameters` counts what the optimizer was given; None in records from before it was counted. `mfu`
    is the share that the model's own operations take of `peak_flops_per_s`, which a large matrix product reached on the
    same device; None where a model does not count its operations. `best_epoch` is the epoch whose weights were kept and
    scored, counted from 1; None says that those of the last step were.
    """

    stage: ModelState
    epochs: int
    learning_rate: float
    steps: int
    wall_s: float
    tokens_per_s: float | None
    held_out: float | None
    chosen: bool
    trained_parameters: int | None = None
    mfu: float | None = None
    peak_flops_per_s: float | None = None
    best_epoch: int | None = None


@dataclass(frozen=True, kw_only=True)
class RunRecord:
    """Everything one run leaves behind; `config` is resolved, `started_at` is UTC in ISO 8601.

    `reason` says in one line why a failed run failed. `artifacts` maps names to paths relative to the record's folder.
    `heads` and `curves` are empty where no analysis was asked for, and in records from before there were any.
    `choices` are the options chosen in the configuration's groups, `experiments` among them, and `overrides` what the
    command line said: together the command; None in records from before they were kept.
    `analysis_s` are the seconds of `wall_s` that measuring attention took, its figures and files included; None in
    records from before it was timed.
    `commit` and `dirty` are None outside a git repository, `peak_memory_bytes` where the system does not tell.
    """

    status: Literal["finished", "failed"]
    reason: str | None
    regime: str
    model: str
    task: str
    attn: str
    seed: int
    fingerprint: str
    config: dict[str, Any]
    commit: str | None
    dirty: bool | None
    versions: dict[str, str]
    hardware: dict[str, Any]
    data: dict[str, Any]
    stages: tuple[StageTime, ...]
    metrics: tuple[Measurement, ...]
    peak_memory_bytes: int | None
    wall_s: float
    started_at: str
    artifacts: dict[str, str]
    trials: tuple[TrialRecord, ...] = ()
    heads: tuple[HeadGrid, ...] = ()
    curves: tuple[Curve, ...] = ()
    choices: dict[str, str] | None = None
    overrides: tuple[str, ...] | None = None
    analysis_s: float | None = None
    schema_version: int = SCHEMA_VERSION

    def __post_init__(self) -> None:
        if (self.status == "failed") != (self.reason is not None):
            raise ValueError(f"reason must be set for a failed run and only then, got {self.status}, {self.reason!r}")
        for name, path in self.artifacts.items():
            if PurePosixPath(path).is_absolute() or PureWindowsPath(path).is_absolute():
                raise ValueError(f"artifacts['{name}'] must be relative to the record's folder, got {path!r}")

    def value(self, stage: ModelState, name: str) -> float | None:
        """The measured value, of the first split listed; None where it was not measured or not finite."""
        found = (entry.value for entry in self.metrics if entry.stage == stage and entry.name == name)
        return next(found, None)

    @property
    def maps_from(self) -> str:
        """The corpus on which the maps were distilled, by name; `the task` where that were the task's own rows."""
        corpus = self.data.get("maps_corpus")
        return str(corpus["name"]) if corpus else "the task"

    def score_names(self) -> list[str]:
        """Names of the task's scores in the order listed, the primary metric first; losses in nats are no scores."""
        scores = (entry for entry in self.metrics if entry.name.startswith(SCORE_PREFIX) and entry.unit != "nats")
        return list(dict.fromkeys(entry.name for entry in scores))


def states_of(regime: str) -> tuple[ModelState, ...]:
    """The states a run of a regime goes through, in order; a model trained from scratch has one alone."""
    return ("trained",) if regime == "scratch" else CONVERSION


def failure_reason(error: BaseException) -> str:
    """The type and message of `error` in one line."""
    return f"{type(error).__name__}: {' '.join(str(error).split())}"


def config_fingerprint(config: dict[str, Any]) -> str:
    """First 16 hex digits of the SHA-256 of the canonical JSON of all keys but `KEYS_WITHOUT_EFFECT`."""
    kept = {key: value for key, value in config.items() if key not in KEYS_WITHOUT_EFFECT}
    canonical = json.dumps(kept, sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(canonical.encode()).hexdigest()[:16]


def run_folder(root: Path, regime: str, model: str, task: str, attn: str, seed: int, fingerprint: str) -> Path:
    """Where a run keeps its record: `<root>/<regime>/<model>/<task>/<attn>/seed<k>-<fingerprint>`; creates nothing."""
    return root / regime / model / task / attn / f"seed{seed}-{fingerprint}"


def write_record(record: RunRecord, folder: Path) -> Path:
    """Write `record.json` into `folder`: after a crash there is the old file or the new one, never half a file.

    Raises:
        ValueError: when the record could not be read back, naming the field.
    """
    plain = to_plain(record)
    from_plain(RunRecord, plain, "")
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / RECORD_NAME
    temporary = folder / f".{RECORD_NAME}.{os.getpid()}"
    try:
        with temporary.open("w", encoding="utf-8") as file:
            json.dump(plain, file, indent=2, sort_keys=True, allow_nan=False, ensure_ascii=False)
            file.write("\n")
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)
    return path


def read_record(path: Path) -> RunRecord:
    """Read and check a record.

    Raises:
        FileNotFoundError: when there is no such file.
        ValueError: one line naming the file and the field.
    """
    return parse_record(path.read_bytes(), str(path))


def parse_record(text: bytes, where: str) -> RunRecord:
    """A record from its JSON text; ValueError with one line that starts with `where`."""
    try:
        plain = json.loads(text)
        version = plain.get("schema_version") if isinstance(plain, dict) else None
        if version != SCHEMA_VERSION:
            raise ValueError(f"field 'schema_version' must be {SCHEMA_VERSION}, got {version!r}")
        return from_plain(RunRecord, plain, "")
    except ValueError as error:
        raise ValueError(f"{where}: {error}") from error


def finished_record(folder: Path) -> RunRecord | None:
    """The record of a run that finished in `folder`; a broken file counts as absent and is warned about."""
    try:
        record = read_record(folder / RECORD_NAME)
    except FileNotFoundError:
        return None
    except (ValueError, OSError) as error:
        _log.warning("ignoring a broken run record: %s", error)
        return None
    return record if record.status == "finished" else None
