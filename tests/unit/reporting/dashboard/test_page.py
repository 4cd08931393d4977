"""The one file that the dashboard is, and the data in it."""

import json
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest
from dashboards import HOSTILE, KEPT

from mimicry.reporting import dashboard
from mimicry.reporting.dashboard.page import SCRIPTS
from mimicry.reporting.intervals import interval


class Parts(HTMLParser):
    """Tags with their attributes, and what stands inside scripts."""

    def __init__(self, page: Path) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.scripts: list[str] = []
        self._inside = False
        self.feed(page.read_text(encoding="utf-8"))

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        if tag == "script":
            self._inside = True
            self.scripts.append("")

    def handle_endtag(self, tag: str) -> None:
        self._inside = self._inside and tag != "script"

    def handle_data(self, data: str) -> None:
        if self._inside:
            self.scripts[-1] += data


@pytest.fixture
def data(page: Path) -> dict[str, Any]:
    return json.loads(Parts(page).scripts[0])


def test_the_page_is_one_file_that_asks_for_no_other(page: Path) -> None:
    parts = Parts(page)
    assert not any(attributes.get("src") for _, attributes in parts.tags)
    assert [attributes["href"] for tag, attributes in parts.tags if tag == "link"] == ["data:,"]
    policy = next(attributes for _, attributes in parts.tags if attributes.get("http-equiv"))
    assert "default-src 'none'" in policy["content"]
    assert "plotly.js" in parts.scripts[1]
    assert len(parts.scripts) == 3


def test_text_of_records_opens_no_tag_and_fills_no_slot(page: Path, data: dict[str, Any]) -> None:
    assert {tag for tag, _ in Parts(page).tags}.isdisjoint({"img", "b", "i"})
    assert HOSTILE in {group["model"] for group in data["groups"]}
    assert any(run["reason"] == f"ValueError: {HOSTILE}" for run in data["runs"])


def test_a_run_stands_once_even_where_its_record_lies_twice(data: dict[str, Any]) -> None:
    assert len(data["runs"]) == 3 * len(KEPT) + 2
    assert sorted({group["source"] for group in data["groups"]}) == ["local runs", "some_glue"]


def test_every_run_leads_to_its_record_and_has_a_command(page: Path, data: dict[str, Any]) -> None:
    for run in data["runs"]:
        assert (page.parent / run["href"]).is_file()
    commands = {run["command"] for run in data["runs"]}
    # What the command line said, quoted for a shell.
    assert "python run.py attn=hedgehog 'model.path=a model'" in commands
    assert "python run.py experiments=some_glue attn=elu seed=2 task=sst2 task.root=data/glue" in commands


def test_scores_are_as_in_the_tables_and_intervals_as_in_theirs(data: dict[str, Any]) -> None:
    runs = [run for run in data["runs"] if run["label"] == "elu"]
    values = [run["states"]["recovered"]["score"] for run in runs]
    assert values == pytest.approx([100 * 0.93 * (0.84 + 0.005 * seed) for seed in range(3)])
    of = interval(values)
    # Two degrees of freedom come second.
    assert of.half == pytest.approx(data["student_t"][1] * (0.93 * 0.5) / 3**0.5)


def test_verdicts_heads_curves_maps_and_benchmarks_are_all_there(data: dict[str, Any]) -> None:
    statuses = [verdict["status"] for verdict in data["verdicts"]]
    assert statuses == ["reproduced", "not run at this scale", "differs", "reproduced"]
    (benchmark,) = data["speed"]
    assert (benchmark["name"], benchmark["about"], len(benchmark["rows"])) == ("speed", "Attention, batch 1", 4)
    assert benchmark["rows"][3]["extra_bytes"] is None
    local = next(run for run in data["runs"] if run["maps"])
    assert local["maps"]["shape"] == [2, 3, 5, 5]
    assert {grid["name"] for grid in local["heads"]} == {"analysis/entropy", "analysis/kl"}
    assert {curve["x_name"] for curve in local["curves"]} == {"batch", "q.k"}


def test_every_script_of_the_package_is_in_the_page(page: Path) -> None:
    shipped = [path.read_text(encoding="utf-8") for path in Path(dashboard.__path__[0]).glob("*.js")]
    assert len(shipped) == len(SCRIPTS)
    assert all(text.strip() in Parts(page).scripts[2] for text in shipped)
