"""The command line of a report: records in, Markdown out, and a figure beside it if it has one."""

import argparse
import logging
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from mimicry.reporting.comparison import read_records
from mimicry.reporting.run_record import RunRecord


@dataclass(frozen=True)
class Report:
    """What a report says, in Markdown, empty where its records say nothing; and what draws its figure as a PNG."""

    text: str
    draw: Callable[[Path], object] | None = None


def report_command(
    parser: argparse.ArgumentParser,
    arguments: Sequence[str] | None,
    name: str,
    needs: str,
    make: Callable[[Sequence[RunRecord], argparse.Namespace], Report],
) -> int:
    """Writes a report to standard output and, with --save, to `<name>.md` and `<name>.png`.

    Args:
        parser: with the report's own options; folders of records and --save are added here.
        arguments: of the command line; None takes the program's.
        name: of the files.
        needs: the records that it is made of, for the error.
        make: called with all records below the folders, and the options.

    Returns:
        The exit code: 1 where no record says anything.
    """
    parser.add_argument("roots", type=Path, nargs="+", help="folders with run records, at any depth")
    parser.add_argument("--save", type=Path, metavar="DIR", help="also write the report there")
    options = parser.parse_args(arguments)
    logging.basicConfig(format="%(levelname)s %(message)s")
    report = make([record for root in options.roots for record in read_records(root)], options)
    if not report.text:
        where = ", ".join(map(str, options.roots))
        logging.getLogger(__name__).error("roots must hold %s, found none below %s", needs, where)
        return 1
    if options.save is not None:
        options.save.mkdir(parents=True, exist_ok=True)
        (options.save / f"{name}.md").write_text(report.text, encoding="utf-8")
        if report.draw is not None:
            report.draw(options.save / f"{name}.png")
    sys.stdout.write(report.text)
    return 0
