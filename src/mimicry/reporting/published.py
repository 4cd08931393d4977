"""The paper's tables with our numbers beside the published ones, and what each comparison comes to."""

import re
from collections.abc import Sequence

from mimicry.reporting.sheets import Sheet
from mimicry.reporting.tables import GAP, STATE_LABELS, number
from mimicry.reporting.targets import Target
from mimicry.reporting.variants import interval_cell
from mimicry.reporting.verdicts import Verdict

_DECIMALS = {"score": 1, "percent_of_teacher": 1, "perplexity": 2}
NAMES = {
    "score": "score (%)",
    "percent_of_teacher": "% of teacher",
    "kl": "KL (nats)",
    "entropy": "entropy (nats)",
    "perplexity": "perplexity",
    "monotonicity": "monotonicity",
}
HEADER = ["claim", "source", "confidence", "published", "ours", "difference", "verdict", "rests on"]


def published_sheets(verdicts: Sequence[Verdict]) -> list[Sheet]:
    """One sheet for each table of the source that states values, in its layout; then all verdicts."""
    if not verdicts:
        return []
    sources = sorted({verdict.target.source for verdict in verdicts if verdict.target.value is not None}, key=_natural)
    tables = [_in_layout(source, [v for v in verdicts if v.target.source == source]) for source in sources]
    lines = [HEADER, *(verdict_cells(verdict) for verdict in verdicts)]
    return [*tables, Sheet("Verdicts", "ours: mean ± 95 % interval over seeds, in the units of the claim", lines)]


def verdict_cells(verdict: Verdict) -> list[str]:
    """The texts of one verdict, in the order of `HEADER`."""
    target = verdict.target
    places = _DECIMALS.get(target.quantity, 3)

    def cell(of: object) -> str:
        return GAP if of is None else interval_cell(of, places)  # type: ignore[arg-type]

    published, ours = GAP, cell(verdict.ours)
    if target.value is not None:
        published = f"{number(target.value, places)} ± {number(target.tolerance, places)}"
    elif verdict.other is not None:
        ours = f"{ours} against {cell(verdict.other)}"
    difference = cell(verdict.difference)
    signed = difference if difference.startswith(("-", GAP)) else f"+{difference}"
    about = ", ".join([*([verdict.model] if verdict.model else []), *verdict.tasks, verdict.about])
    return [
        claim(target),
        target.source,
        target.confidence or GAP,
        published,
        ours,
        signed.replace("-", "−"),
        verdict.status,
        about,
    ]


def claim(target: Target) -> str:
    """A target in words."""
    name = NAMES[target.quantity]
    where = " on ".join(part for part in (target.model, target.task) if part)
    maps = f", maps from {target.maps_from}" if target.maps_from else ""
    whose = f"{target.attn}{f', {where}' if where else ''}{maps}, {STATE_LABELS[target.stage]}"
    return f"{name}, {whose}" if target.above is None else f"{name}, {whose}: above {target.above}"


def _in_layout(source: str, verdicts: Sequence[Verdict]) -> Sheet:
    """Attentions down, tasks across; of each attention one row as published and one of ours."""
    valued = [verdict for verdict in verdicts if verdict.target.value is not None]
    # As the paper has them: what is converted first, the mean of the tasks last.
    columns = list(dict.fromkeys(map(_column, sorted(valued, key=lambda verdict: verdict.target.task is None))))
    rows = dict.fromkeys(map(_row, sorted(valued, key=lambda verdict: verdict.target.stage != "teacher")))
    lines = [["attention", *columns]]
    for row in rows:
        published, ours = [f"{row}, published"], [f"{row}, ours"]
        for column in columns:
            same = [v for v in valued if (_row(v), _column(v)) == (row, column)]
            # Several experiments may state one number, and not all of them have run.
            found = next((v for v in same if v.ours is not None), next(iter(same), None))
            places = _DECIMALS.get(found.target.quantity, 3) if found else 0
            published.append(number(found.target.value if found else None, places))
            ours.append(GAP if found is None or found.ours is None else interval_cell(found.ours, places))
        lines += [published, ours]
    return Sheet(source, f"ours: mean ± 95 % interval over seeds; {GAP} not run at this scale", lines)


def _natural(text: str) -> list[tuple[str, int]]:
    """To sort Table 10 behind Table 9."""
    return [(word, int(digits or 0)) for word, digits in re.findall(r"(\D+)(\d*)", text)]


def _row(verdict: Verdict) -> str:
    target = verdict.target
    if target.stage == "teacher":
        return STATE_LABELS["teacher"]
    late = target.stage in ("recovered", "trained")
    return target.attn if late else f"{target.attn}, {STATE_LABELS[target.stage]}"


def _column(verdict: Verdict) -> str:
    target = verdict.target
    where = " · ".join(part for part in (target.model or verdict.model, target.task or "all tasks") if part)
    return where if target.quantity == "score" else f"{where}, {NAMES[target.quantity]}"
