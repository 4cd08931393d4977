"""Every command that the README shows, as it shows it."""

import re
from pathlib import Path

from cli import REPO

TEXT = (REPO / "README.md").read_text(encoding="utf-8")
# How a command begins; other code in backticks names options, files and the like.
PROGRAMS = ("python ", "make ", "conda ", "pip ")
FENCED = re.compile(r"^```(\w*)\n(.*?)^```$", re.M | re.S)
INLINE = re.compile(r"`([^`]+)`")
EXPERIMENT = "experiments="


def shell_commands(text: str = TEXT) -> list[str]:
    """Lines of code blocks without a language, and commands inside a sentence; each once, in the README's order."""
    blocks = [block for language, block in FENCED.findall(text) if not language]
    prose = FENCED.sub("", text)
    blocks += [line.removeprefix("    ") for line in prose.splitlines() if line.startswith("    ")]
    lines = [line.partition(" #")[0].strip() for block in blocks for line in block.splitlines()]
    # A sentence may go on in the next line in the middle of a command.
    words = [" ".join(code.split()) for code in INLINE.findall(prose)]
    return list(dict.fromkeys(filter(None, [*lines, *(code for code in words if code.startswith(PROGRAMS))])))


def experiments(text: str = TEXT) -> list[str]:
    """The ids of the experiments that the table of commands names."""
    rows = [line for line in FENCED.sub("", text).splitlines() if line.startswith("|") and EXPERIMENT in line]
    return [fragment.partition(EXPERIMENT)[2] or fragment for row in rows for fragment in INLINE.findall(row)]


def python_blocks(text: str = TEXT) -> list[str]:
    """The Python examples."""
    return [block for language, block in FENCED.findall(text) if language == "python"]


def experiment_files() -> list[str]:
    """The ids of all experiments there are."""
    folder = REPO / "experiments"
    return sorted(Path(path).relative_to(folder).with_suffix("").as_posix() for path in folder.rglob("*.yaml"))
