"""Which settings won, among which, and what each stage cost."""

from collections import Counter
from collections.abc import Sequence

from mimicry.reporting.run_record import ModelState, RunRecord, TrialRecord
from mimicry.reporting.sheets import Sheet
from mimicry.reporting.tables import GAP
from mimicry.reporting.variants import finished, mean_and_interval, variants

STAGES: dict[ModelState, str] = {"teacher": "teach", "distilled": "distill", "recovered": "recover", "trained": "train"}
HEADER = [
    *("attention", "stage", "chosen: epochs at learning rate (runs)", "among", "steps", "time (s)"),
    *("choosing (s)", "tokens/s"),
]


def settings_sheets(records: Sequence[RunRecord]) -> list[Sheet]:
    """One row per variant and trained stage; the teacher, shared by all variants, comes once and first.

    No sheet where no run has finished.
    """
    lines = [HEADER]
    trained = finished(records)
    if not trained:
        return []
    for label, runs in {"all": trained, **variants(trained)}.items():
        states: list[ModelState] = ["teacher"] if label == "all" else ["distilled", "recovered", "trained"]
        lines += [_cells(label, state, runs) for state in states if any(_trials(run, state) for run in runs)]
    about = "Settings, chosen on held-out training rows where there was a choice, and costs:"
    return [Sheet("", about, lines)]


def _trials(record: RunRecord, state: ModelState) -> list[TrialRecord]:
    return [trial for trial in record.trials if trial.stage == state]


def _cells(label: str, state: ModelState, runs: Sequence[RunRecord]) -> list[str]:
    if state == "teacher":
        # Variants of one seed share their teacher: it counts once.
        runs = list({run.seed: run for run in runs}.values())
    chosen = Counter(_settings(trial) for run in runs for trial in _trials(run, state) if trial.chosen)
    among = dict.fromkeys(_settings(trial) for run in runs for trial in _trials(run, state))

    def winner(run: RunRecord) -> TrialRecord | None:
        return next((trial for trial in _trials(run, state) if trial.chosen), None)

    def of_winner(name: str, decimals: int = 0) -> str:
        return mean_and_interval(runs, lambda run: getattr(winner(run), name, None), decimals)

    return [
        label,
        STAGES[state],
        ", ".join(f"{settings} ({count})" for settings, count in chosen.most_common()),
        GAP if len(among) < 2 else ", ".join(among),
        of_winner("steps"),
        of_winner("wall_s"),
        GAP if len(among) < 2 else mean_and_interval(runs, lambda run: sum(t.wall_s for t in _trials(run, state)), 0),
        of_winner("tokens_per_s"),
    ]


def _settings(trial: TrialRecord) -> str:
    return f"{trial.epochs} at {trial.learning_rate:g}"
