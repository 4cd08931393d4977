"""A table of texts, as Markdown and as LaTeX."""

from collections.abc import Sequence
from dataclasses import dataclass

from mimicry.reporting.tables import markdown_table

_LATEX = {
    "\\": r"\textbackslash{}",
    **{character: f"\\{character}" for character in "&%$#_{}"},
    "~": r"\textasciitilde{}",
    "^": r"\textasciicircum{}",
    "±": r"$\pm$",
    "−": "$-$",
    "–": "--",
    "·": r"$\cdot$",
    "≥": r"$\ge$",
    ">": "$>$",
    "<": "$<$",
    "|": "$|$",
}


@dataclass(frozen=True)
class Sheet:
    """Rows of cells under a header, which is the first line; the first column is text, the others are numbers.

    `about` says what the cells are, in the line of the title, `note` what they rest on, in a line of its own.
    """

    title: str
    about: str
    lines: Sequence[Sequence[str]]
    note: str = ""

    def markdown(self) -> str:
        head = " · ".join(part for part in (f"**{self.title}**" if self.title else "", self.about) if part)
        safe = [[cell.replace("|", "\\|").replace("\n", " ") for cell in line] for line in self.lines]
        return "\n\n".join(part for part in (head, self.note, markdown_table(safe)) if part)

    def latex(self) -> str:
        """A floating table with the rules of booktabs."""
        header, *body = ([latex_escaped(cell) for cell in line] for line in self.lines)
        caption = latex_escaped(" · ".join(part for part in (self.title, self.about, self.note) if part))
        rows = ["  " + " & ".join(cells) + r" \\" for cells in (header, *body)]
        return "\n".join(
            [
                r"\begin{table}",
                r"  \centering",
                rf"  \caption{{{caption}}}",
                rf"  \begin{{tabular}}{{l{'r' * (len(header) - 1)}}}",
                r"  \toprule",
                rows[0],
                r"  \midrule",
                *rows[1:],
                r"  \bottomrule",
                r"  \end{tabular}",
                r"\end{table}",
                "",
            ]
        )


def latex_escaped(text: str) -> str:
    """The text with every character that LaTeX would read as a command written out."""
    return "".join(_LATEX.get(character, character) for character in " ".join(text.split()))
