"""Print the comparison tables of a results folder: `python -m mimicry.reporting results/runs`."""

import argparse
import logging
import sys
from pathlib import Path

from mimicry.reporting.comparison import comparison_tables, read_records, save_collection


def main(arguments: list[str] | None = None) -> int:
    """Write one Markdown table per regime, model and task to standard output; 1 when there is no record."""
    parser = argparse.ArgumentParser(prog="python -m mimicry.reporting", description=__doc__)
    parser.add_argument("root", type=Path, help="folder with run records, at any depth")
    parser.add_argument("--save", type=Path, metavar="DIR", help="also write the records and tables there, to commit")
    parser.add_argument("--score", metavar="NAME", help="such as val/f1; by default each task's primary metric")
    options = parser.parse_args(arguments)
    root = options.root
    logging.basicConfig(format="%(levelname)s %(message)s")
    records = read_records(root)
    if not records:
        logging.getLogger(__name__).error("root must hold a readable run record, found none below %s", root)
        return 1
    if options.save is not None:
        save_collection(records, options.save, options.score)
    sys.stdout.write(comparison_tables(records, options.score))
    return 0


if __name__ == "__main__":
    sys.exit(main())
