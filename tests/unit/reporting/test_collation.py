"""Tables, figure, verdicts and provenance of a collection, from records alone."""

import csv
import io
import json
import shutil
from collections.abc import Callable
from pathlib import Path

import matplotlib.image
import pytest

from mimicry.reporting.__main__ import main
from mimicry.reporting.collation import collection, experiment_name, write_tables
from mimicry.reporting.comparison import read_records, save_collection
from mimicry.reporting.intervals import interval
from mimicry.reporting.run_record import RunRecord
from mimicry.reporting.sheets import Sheet, latex_escaped

MakeRecord = Callable[..., RunRecord]
ROOT = Path(__file__).parents[3]
COMMITTED = sorted(path.parent.name for path in (ROOT / "results").glob("*/records.jsonl"))
TARGETS = """
targets:
  - {quantity: score, stage: recovered, attn: hedgehog, value: 78.5, tolerance: 1.0, source: Table 8, confidence: high}
  - {quantity: score, stage: teacher, attn: softmax, model: bert_base, task: cola, value: 58.8, tolerance: 1.0,
     source: Table 8}
  - {quantity: score, stage: recovered, attn: hedgehog, above: elu, source: Table 8}
"""


@pytest.fixture
def kept(make_record: MakeRecord, tmp_path: Path) -> Path:
    """A collection of two seeds of hedgehog, one of elu and a failed run, beside an experiment that states targets."""
    records = [
        make_record(seed=0, scores={"teacher": 0.80, "recovered": 0.76}),
        make_record(seed=1, scores={"teacher": 0.80, "recovered": 0.80}),
        make_record(seed=0, attn="elu", scores={"teacher": 0.80, "recovered": 0.60}),
        make_record(seed=0, attn="t2r", status="failed", reason="ValueError: no", metrics=()),
    ]
    (tmp_path / "experiments").mkdir()
    (tmp_path / "experiments" / "some_glue.yaml").write_text(TARGETS, encoding="utf-8")
    folder = tmp_path / "results" / "some_glue"
    save_collection(records, folder)
    write_tables(collection(records, folder, tmp_path / "experiments"))
    return folder


def files(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def test_every_file_is_rebuilt_from_the_records_alone(kept: Path, tmp_path: Path) -> None:
    before = files(kept)
    for name in before.keys() - {"records.jsonl"}:
        (kept / name).unlink()
    assert main([str(tmp_path / "results"), "--experiments", str(tmp_path / "experiments")]) == 0
    assert sorted(before) == [
        *("figure.png", "paper.md", "paper.tex", "provenance.json"),
        *("records.jsonl", "table.csv", "table.md", "table.tex"),
    ]
    assert files(kept) == before


def test_the_csv_holds_means_and_intervals_and_leaves_gaps(kept: Path) -> None:
    rows = list(csv.DictReader(io.StringIO((kept / "table.csv").read_text())))
    found = {(row["attention"], row["state"], row["quantity"]): row for row in rows}
    row = found["hedgehog", "recovered", "val/accuracy"]
    expected = interval([76.0, 80.0])
    assert (row["seeds"], row["unit"]) == ("2", "%")
    assert float(row["mean"]) == pytest.approx(expected.mean)
    assert float(row["high"]) == pytest.approx(expected.mean + expected.half, rel=1e-5)
    assert found["elu", "recovered", "of_teacher"]["mean"] == "75"
    assert found["elu", "recovered", "val/accuracy"]["low"] == ""
    # What was not measured has no line, and neither has a run that failed.
    assert ("hedgehog", "distilled", "val/accuracy") not in found
    assert "t2r" not in {row["attention"] for row in rows}


def test_published_numbers_stand_beside_ours_and_gaps_stay_gaps(kept: Path) -> None:
    lines = (kept / "paper.md").read_text().splitlines()
    assert lines[0].startswith("**Table 8**")
    assert "| attention | bert_base · cola | minilm · all tasks |" in lines
    assert "| hedgehog, published | – | 78.5 |" in lines
    assert "| hedgehog, ours | – | 78.0 ± 25.4 |" in lines
    assert "| teacher (softmax), published | 58.8 | – |" in lines
    assert "| teacher (softmax), ours | – | – |" in lines
    verdicts = [[cell.strip() for cell in line.strip("|").split("|")] for line in lines if line.startswith("| score")]
    assert [cells[6] for cells in verdicts] == ["reproduced", "not run at this scale", "reproduced"]
    assert verdicts[0][3:6] == ["78.5 ± 1.0", "78.0 ± 25.4", "−0.5 ± 25.4"]
    assert verdicts[2][4] == "76.0 against 60.0"
    assert verdicts[2][7].endswith("a single seed: no interval")


def test_one_file_holds_the_verdicts_on_all_experiments_those_without_a_run_too(kept: Path, tmp_path: Path) -> None:
    experiments = tmp_path / "experiments"
    (experiments / "mini").mkdir()
    claim = "targets: [{quantity: kl, stage: distilled, attn: hedgehog, value: 0.2, tolerance: 0.1, source: Sec. 5}]"
    (experiments / "mini" / "never_run.yaml").write_text(claim, encoding="utf-8")
    assert main([str(tmp_path / "results"), "--experiments", str(experiments)]) == 0
    text = (tmp_path / "results" / "paper.md").read_text()
    assert "**Sec. 5**" in text
    assert "| Sec. 5 | – | 0.200 ± 0.100 | – | – | not run at this scale |" in text
    assert (kept / "paper.md").read_text().count("reproduced") == text.count("reproduced") == 2


def test_a_folder_is_of_the_experiment_with_the_longest_name_that_fits(tmp_path: Path) -> None:
    for name in ("some_glue", "mini/some_glue"):
        (tmp_path / "mini").mkdir(exist_ok=True)
        (tmp_path / f"{name}.yaml").touch()
    assert experiment_name(tmp_path / "results" / "mini" / "some_glue", tmp_path) == "mini/some_glue"
    assert experiment_name(tmp_path / "results" / "some_glue", tmp_path) == "some_glue"
    assert experiment_name(tmp_path / "elsewhere", tmp_path) == "elsewhere"


def test_latex_has_the_same_cells(kept: Path) -> None:
    text = (kept / "paper.tex").read_text() + (kept / "table.tex").read_text()
    assert r"hedgehog, ours & -- & 78.0 $\pm$ 25.4 \\" in text
    assert text.count(r"\begin{tabular}") == text.count(r"\end{tabular}") == 4
    assert r"movie\_reviews" in text
    assert latex_escaped(r"a_b & 5% {x} \ $1") == r"a\_b \& 5\% \{x\} \textbackslash{} \$1"


def test_a_cell_cannot_break_a_markdown_table() -> None:
    assert "| a\\|b c | 1 |" in Sheet("", "about", [["x", "y"], ["a|b\nc", "1"]]).markdown()


def test_provenance_names_code_machines_and_data(kept: Path) -> None:
    told = json.loads((kept / "provenance.json").read_text())
    assert told["commits"] == [{"commit": "a" * 40, "with_changes": False}]
    assert told["records"]["count"] == len(told["runs"]) == 4
    assert told["versions"] == [{"python": "3.11.7"}]
    assert [run["status"] for run in told["runs"]] == ["finished"] * 3 + ["failed"]


def test_the_figure_has_a_panel_with_the_colours_of_the_states(kept: Path) -> None:
    pixels = matplotlib.image.imread(kept / "figure.png")[..., :3]
    blue = (abs(pixels - [0, 0x72 / 255, 0xB2 / 255]) < 0.02).all(-1)
    # Two dots, one of them with its interval.
    assert blue.sum() > 100


def test_a_broken_target_is_refused_in_one_line(kept: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    (tmp_path / "experiments" / "some_glue.yaml").write_text("targets: [{quantity: score}]", encoding="utf-8")
    assert main([str(tmp_path / "results"), "--experiments", str(tmp_path / "experiments")]) == 1
    assert "some_glue.yaml: field 'targets[0].attn' is missing" in caplog.text


def test_latex_is_printed_on_request(kept: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([str(kept), "--experiments", str(tmp_path / "experiments"), "--latex"]) == 0
    assert capsys.readouterr().out == (kept / "table.tex").read_text() + "\n" + (kept / "paper.tex").read_text()


@pytest.mark.parametrize("name", COMMITTED)
def test_the_committed_tables_are_those_of_the_committed_records(name: str, tmp_path: Path) -> None:
    folder = ROOT / "results" / name
    # Without the targets, which are stated elsewhere.
    shutil.copytree(folder, tmp_path / name)
    write_tables(collection(read_records(folder), tmp_path / name, tmp_path))
    for file in ("table.csv", "table.md", "table.tex", "provenance.json"):
        assert (tmp_path / name / file).read_text() == (folder / file).read_text(), file
