"""Puts data, style, scripts and plotly.js into one file: the dashboard, or one run's attention maps alone."""

import json
import re
from collections.abc import Sequence
from html import escape
from importlib.resources import files
from pathlib import Path
from typing import Any

from plotly.offline import get_plotlyjs

from mimicry.reporting.run_record import RunRecord

# In this order: later ones use what earlier ones define.
SCRIPTS = (
    "base",
    "table",
    "plots",
    "filters",
    "leaderboard",
    "fidelity",
    "curves",
    "heads",
    "maps",
    "speed",
    "paper",
    "runs",
    "main",
)
# What the viewer of attention maps uses.
MAPS_SCRIPTS = ("base", "plots", "maps")
POLICY = (
    "default-src 'none'; script-src 'unsafe-inline'; style-src 'unsafe-inline'; img-src data: blob:; font-src data:; "
    "base-uri 'none'; form-action 'none'"
)
_SLOT = re.compile(r"\{\{(\w+)\}\}")


def write_page(data: dict[str, Any], path: Path) -> Path:
    """Writes the dashboard; whatever text the data hold, it stays text.

    Args:
        data: as `payload` makes them.
        path: HTML file; its folder is made.

    Returns:
        `path`.
    """
    return _write("page.html", SCRIPTS, data, _summary(data), path)


def write_maps_page(record: RunRecord, maps: dict[str, Any], path: Path) -> Path:
    """Writes the dashboard's viewer with the attention maps of one run: every layer and head, and nothing else.

    Args:
        record: of the run.
        maps: as `read_maps` gives them.
        path: HTML file; its folder is made.

    Returns:
        `path`.
    """
    run = {"id": record.fingerprint, "group": 0, "attn": record.attn, "label": record.attn, "seed": record.seed}
    group = {"task": record.task, "model": record.model}
    title = f"{record.attn} on {record.task} · {record.model} · seed {record.seed}"
    return _write("maps_page.html", MAPS_SCRIPTS, {"groups": [group], "runs": [run | {"maps": maps}]}, title, path)


def _write(template: str, scripts: Sequence[str], data: dict[str, Any], summary: str, path: Path) -> Path:
    folder = files(__package__)
    parts = {
        "policy": POLICY,
        "style": (folder / "style.css").read_text(encoding="utf-8"),
        "plotly": get_plotlyjs(),
        # No "<" may reach the HTML parser, which would see the end of the script in it.
        "data": json.dumps(data, ensure_ascii=False, allow_nan=False, separators=(",", ":")).replace("<", "\\u003c"),
        "scripts": "\n".join((folder / f"{name}.js").read_text(encoding="utf-8") for name in scripts),
        "summary": escape(summary),
    }
    text = (folder / template).read_text(encoding="utf-8")
    path.parent.mkdir(parents=True, exist_ok=True)
    # One pass, so that a slot's name inside the data is no slot.
    path.write_text(_SLOT.sub(lambda slot: parts[slot[1]], text), encoding="utf-8")
    return path


def _summary(data: dict[str, Any]) -> str:
    runs = data["runs"]
    done = sum(run["status"] == "finished" for run in runs)
    sources = len({group["source"] for group in data["groups"]})
    failed = f", {len(runs) - done} failed" if done < len(runs) else ""
    return f"{done} finished runs{failed} from {sources} source{'s' * (sources != 1)}; the page needs no network"
