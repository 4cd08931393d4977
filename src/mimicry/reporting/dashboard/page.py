"""Puts data, style, scripts and plotly.js into one file."""

import json
import re
from html import escape
from importlib.resources import files
from pathlib import Path
from typing import Any

from plotly.offline import get_plotlyjs

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
_SLOT = re.compile(r"\{\{(\w+)\}\}")


def write_page(data: dict[str, Any], path: Path) -> Path:
    """Writes the dashboard; whatever text the data hold, it stays text.

    Args:
        data: as `payload` makes them.
        path: HTML file; its folder is made.

    Returns:
        `path`.
    """
    folder = files(__package__)
    parts = {
        "style": (folder / "style.css").read_text(encoding="utf-8"),
        "plotly": get_plotlyjs(),
        # No "<" may reach the HTML parser, which would see the end of the script in it.
        "data": json.dumps(data, ensure_ascii=False, allow_nan=False, separators=(",", ":")).replace("<", "\\u003c"),
        "scripts": "\n".join((folder / f"{name}.js").read_text(encoding="utf-8") for name in SCRIPTS),
        "summary": escape(_summary(data)),
    }
    template = (folder / "page.html").read_text(encoding="utf-8")
    path.parent.mkdir(parents=True, exist_ok=True)
    # One pass, so that a slot's name inside the data is no slot.
    path.write_text(_SLOT.sub(lambda slot: parts[slot[1]], template), encoding="utf-8")
    return path


def _summary(data: dict[str, Any]) -> str:
    runs = data["runs"]
    done = sum(run["status"] == "finished" for run in runs)
    sources = len({group["source"] for group in data["groups"]})
    failed = f", {len(runs) - done} failed" if done < len(runs) else ""
    return f"{done} finished runs{failed} from {sources} source{'s' * (sources != 1)}; the page needs no network"
