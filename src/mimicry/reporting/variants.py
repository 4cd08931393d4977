"""Which records may be averaged, and what a row of a table is called."""

from collections import Counter, defaultdict
from collections.abc import Callable, Collection, Hashable, Iterable, Iterator, Mapping, Sequence
from typing import Any

from mimicry.reporting.intervals import Interval, interval
from mimicry.reporting.run_record import (
    KEYS_WITHOUT_EFFECT,
    ModelState,
    RunRecord,
    config_fingerprint,
    states_of,
)
from mimicry.reporting.tables import GAP, number

# The last names of options say enough in a label; these need the one before as well.
AMBIGUOUS = frozenset({"epochs", "learning_rate", "batch_size", "max_rows", "name"})

# The fingerprint of data stands for their folder; a full analysis measures more than a summary, and nothing otherwise;
# activations that are formed twice are the same.
WITHOUT_EFFECT = {
    "model": ("gradient_checkpointing",),
    "task": ("root",),
    "maps_corpus": ("root",),
    "analysis": ("full",),
}


def finished(records: Sequence[RunRecord]) -> list[RunRecord]:
    return [record for record in records if record.status == "finished"]


def latest(records: Iterable[RunRecord], key: Callable[[RunRecord], Hashable]) -> list[RunRecord]:
    """One record for each key, in the order of the keys: a finished one if there is any, and the last that started."""
    best: dict[Hashable, RunRecord] = {}
    for record in records:
        other = best.get(key(record))
        if other is None or _rank(record) > _rank(other):
            best[key(record)] = record
    return list(best.values())


def one_per_seed(runs: Iterable[RunRecord]) -> list[RunRecord]:
    """The runs of a row that count: a seed that ran again, elsewhere or with a full analysis, is still one seed."""
    return latest(runs, lambda run: (run.model, run.task, run.seed))


def variants(records: Sequence[RunRecord], apart_from: Collection[str] = ("seed",)) -> dict[str, list[RunRecord]]:
    """The records that count, one per seed, by row label; see `labelled`."""
    return {label: one_per_seed(runs) for label, runs in labelled(records, apart_from).items()}


def labelled(records: Sequence[RunRecord], apart_from: Collection[str] = ("seed",)) -> dict[str, list[RunRecord]]:
    """All records by row label. A mean over runs that differ in more than the seed would say nothing about seeds.

    Runs of one attention whose configs differ get rows of their own, named by the options in which they deviate from
    what most of them have, such as `hedgehog (tie_maps=True)`. Where as many have one value as another, both are named.

    Args:
        records: of one table.
        apart_from: parts of the config in which runs of one row may differ.
    """
    by_attn: dict[str, dict[str, list[RunRecord]]] = defaultdict(lambda: defaultdict(list))
    for record in sorted(records, key=lambda record: record.attn):
        by_attn[record.attn][config_fingerprint(_without(record.config, apart_from))].append(record)
    # The same cell may have run under two experiments: that is no option of the row.
    untold = {*apart_from, *KEYS_WITHOUT_EFFECT}
    rows: dict[str, list[RunRecord]] = {}
    for attn, by_config in by_attn.items():
        options = {
            fingerprint: dict(flat(_with_corpus_by_name(_without(runs[0].config, untold), runs)))
            for fingerprint, runs in by_config.items()
        }
        names = sorted({name for values in options.values() for name in values})
        usual = {
            name: _usual([options[key].get(name) for key, runs in by_config.items() for _ in one_per_seed(runs)])
            for name in names
        }
        for fingerprint, runs in by_config.items():
            values = options[fingerprint]
            differing = [name for name in names if name in values and repr(values[name]) != usual[name]]
            # What only some of them know came with later code, mostly: it is told if nothing else tells them apart.
            known = [name for name in differing if all(name in others for others in options.values())]
            told = [f"{_short(name)}={values[name]}" for name in known or differing]
            label = f"{attn} ({', '.join(told)})" if told else attn
            rows[f"{label} ({fingerprint[:6]})" if label in rows else label] = runs
    return rows


def final_state(records: Sequence[RunRecord], primary: str) -> ModelState:
    """The last state any run reached: one for the whole table, so that its rows can be compared."""
    states = states_of(records[0].regime)
    # A softmax model that nothing was done to is no result.
    for state in reversed(states[1:] or states):
        if any(record.value(state, primary) is not None for record in finished(records)):
            return state
    return states[-1]


def mean_and_interval(
    runs: Sequence[RunRecord], measure: Callable[[RunRecord], float | None], decimals: int, scale: float = 1.0
) -> str:
    """Over the runs that have the value; their number is named when it is not all of them."""
    values = [float(value) for value in map(measure, runs) if value is not None]
    if not values:
        return GAP
    cell = interval_cell(interval(values), decimals, scale)
    return cell if len(values) == len(runs) else f"{cell} (n={len(values)})"


def interval_cell(of: Interval, decimals: int, scale: float = 1.0) -> str:
    """Mean ± half the width of its interval, which a single value does not have."""
    mean = number(of.mean, decimals, scale)
    return mean if of.half is None else f"{mean} ± {number(of.half, decimals, scale)}"


def _rank(record: RunRecord) -> tuple[bool, str]:
    # All times are UTC in one format, so that texts compare as times.
    return record.status == "finished", record.started_at


def _without(config: Mapping[str, Any], parts: Collection[str]) -> dict[str, Any]:
    """The config without these parts, and without what `WITHOUT_EFFECT` names in others."""
    return {
        key: _without(value, WITHOUT_EFFECT[key]) if key in WITHOUT_EFFECT and isinstance(value, Mapping) else value
        for key, value in config.items()
        if key not in parts
    }


def _with_corpus_by_name(config: dict[str, Any], runs: Sequence[RunRecord]) -> dict[str, Any]:
    """The config with the corpus of its maps by name, not as the options of its loader; as it is if none is known."""
    names = [corpus["name"] for run in runs if (corpus := run.data.get("maps_corpus"))]
    return {**config, "maps_corpus": names[0]} if names else config


def _usual(values: Sequence[Any]) -> str | None:
    """What most runs have, as text; None where no value is ahead."""
    (first, count), *others = Counter(map(repr, values)).most_common(2)
    return None if others and others[0][1] == count else first


def flat(config: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Every option of a config with its dotted name, as the command line calls it."""
    for key, value in config.items():
        if isinstance(value, Mapping):
            yield from flat(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", value


def _short(name: str) -> str:
    parts = name.split(".")
    return ".".join(parts[-2:]) if parts[-1] in AMBIGUOUS else parts[-1]
