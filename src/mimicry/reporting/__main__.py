"""Collate run records: `python -m mimicry.reporting results`.

Runs of an experiment below `results/runs` join `results/<experiment>/records.jsonl`. Every folder with such collected
records gets its tables, figure, verdicts and provenance anew; tables of these and of single records are printed. With
`--dashboard` one page of HTML shows all of them.
"""

import argparse
import logging
import sys
from collections.abc import Mapping
from pathlib import Path

from mimicry.reporting.collation import (
    Collection,
    collection,
    experiments_without_records,
    read_collections,
    write_tables,
    write_verdicts,
)
from mimicry.reporting.comparison import all_sheets, read_records, read_single_records, save_collection
from mimicry.reporting.dashboard.maps import collect_maps
from mimicry.reporting.dashboard.page import write_page
from mimicry.reporting.dashboard.payload import payload
from mimicry.reporting.gathering import gather
from mimicry.reporting.published import published_sheets
from mimicry.reporting.run_record import RunRecord
from mimicry.reporting.sheets import Sheet


def main(arguments: list[str] | None = None) -> int:
    """Write tables to files and to standard output; 1 when there is no record, or a target cannot be read."""
    logging.basicConfig(format="%(levelname)s %(message)s")
    options = _parser().parse_args(arguments)
    try:
        sections = _collate(options)
    except ValueError as error:
        logging.getLogger(__name__).error("%s", error)
        return 1
    if not any(sections.values()):
        roots = ", ".join(map(str, options.roots))
        logging.getLogger(__name__).error("root must hold a readable run record, found none below %s", roots)
        return 1
    for name, sheets in sections.items():
        text = "\n".join(sheet.latex() if options.latex else sheet.markdown() for sheet in sheets)
        # A single set of records needs no heading.
        heading = "% " if options.latex else "# "
        sys.stdout.write(f"{heading}{name}\n\n{text}\n" if len(sections) > 1 else text)
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m mimicry.reporting", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    results = [Path("results")]
    parser.add_argument("roots", type=Path, nargs="*", default=results, help="folders with records; default: results")
    parser.add_argument("--save", type=Path, metavar="DIR", help="collect all records found in DIR, to commit")
    parser.add_argument("--score", metavar="NAME", help="such as val/f1; by default each task's primary metric")
    page = {"nargs": "?", "const": Path("results/dashboard.html"), "metavar": "FILE"}
    parser.add_argument("--dashboard", type=Path, help="write the dashboard; default: results/dashboard.html", **page)
    parser.add_argument("--latex", action="store_true", help="print LaTeX instead of Markdown")
    parser.add_argument(
        "--experiments", type=Path, default=Path("experiments"), metavar="DIR", help="where <id>.yaml states targets"
    )
    return parser


def _collate(options: argparse.Namespace) -> dict[str, list[Sheet]]:
    """Writes what there is to write; the sheets to print, by the name of their records."""
    single = {path: record for root in options.roots for path, record in read_single_records(root).items()}
    if options.save is None:
        for root in options.roots:
            for folder, new in gather(root, single).items():
                sys.stderr.write(f"{folder}: {new} new record{'s' * (new > 1)}\n")
        found = [kept for root in options.roots for kept in read_collections(root, options.experiments)]
    else:
        found = _saved(options, single)
    kept = {(record.fingerprint, record.started_at) for entry in found for record in entry.records}
    single = {path: run for path, run in single.items() if (run.fingerprint, run.started_at) not in kept}
    sections = {}
    for entry in found:
        write_tables(entry, options.score)
        sections[entry.name] = [*all_sheets(entry.records, options.score), *published_sheets(entry.verdicts)]
    if single:
        sections["single records"] = all_sheets(list(single.values()), options.score)
    claims = [*found, *experiments_without_records(found, options.roots[0], options.experiments)]
    for root in options.roots:
        # The folder of a single experiment has its own verdicts already.
        if options.save is None and any(root in entry.folder.parents for entry in found):
            write_verdicts(claims, root)
    if options.dashboard is not None and sections:
        data = payload(claims, single, options.roots, options.experiments, options.dashboard)
        sys.stderr.write(f"dashboard: {write_page(data, options.dashboard)}\n")
    return sections


def _saved(options: argparse.Namespace, single: Mapping[Path, RunRecord]) -> list[Collection]:
    """All records found, as one collection in the folder asked for."""
    records = [record for root in options.roots for record in read_records(root)]
    if not records:
        return []
    save_collection(records, options.save)
    collect_maps(single, options.save)
    return [collection(records, options.save, options.experiments)]


if __name__ == "__main__":
    sys.exit(main())
