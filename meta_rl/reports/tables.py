"""Tables as text: for a terminal, for a page, for a paper."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, TypeAlias

from rich.console import Console
from rich.table import Table

TextFormat: TypeAlias = Literal["markdown", "latex"]

LATEX = {"\\": r"\textbackslash{}", "~": r"\textasciitilde{}", "^": r"\textasciicircum{}"} | {
    character: f"\\{character}" for character in "&%$#_{}"
}
LATEX |= {"|": r"\textbar{}", "<": r"\textless{}", ">": r"\textgreater{}"}
"""How LaTeX writes the characters that mean something to it."""


def console() -> Console:
    """Return a console that does not fold tables where nobody watches the width.

    It prints text as it stands: names may hold brackets and colons, which are rich's markup.
    """
    found = Console(markup=False, emoji=False)
    return found if found.is_terminal else Console(width=200, markup=False, emoji=False)


@dataclass(frozen=True)
class TextTable:
    """Cells of text under a title; the leading `left` columns are words, the others numbers."""

    title: str
    columns: Sequence[str]
    rows: Sequence[Sequence[str]]
    left: int = 1

    def print(self) -> None:
        """Show it on the terminal."""
        table = Table(title=self.title, title_justify="left")
        for number, column in enumerate(self.columns):
            side: Literal["left", "right"] = "left" if number < self.left else "right"
            table.add_column(column, justify=side, overflow="fold")
        for row in self.rows:
            table.add_row(*row)
        console().print(table)

    def text(self, kind: TextFormat) -> str:
        """Return it as markdown, or as LaTeX for the package booktabs."""
        return self._markdown() if kind == "markdown" else self._latex()

    def _markdown(self) -> str:
        sides = ["---" if number < self.left else "--:" for number in range(len(self.columns))]
        rows = [[cell.replace("|", r"\|") for cell in cells] for cells in self.rows]
        columns = [column.replace("|", r"\|") for column in self.columns]
        lines = [" | ".join(cells) for cells in (columns, sides, *rows)]
        return "\n".join([f"**{self.title}**", "", *(f"| {line} |" for line in lines), ""])

    def _latex(self) -> str:
        sides = "l" * self.left + "r" * (len(self.columns) - self.left)
        head, *body = (
            " & ".join(map(_escaped, cells)) + r" \\" for cells in (self.columns, *self.rows)
        )
        return "\n".join(
            [
                f"% {self.title}",
                rf"\begin{{tabular}}{{{sides}}}",
                r"\toprule",
                head,
                r"\midrule",
                *body,
                r"\bottomrule",
                r"\end{tabular}",
                "",
            ]
        )


def _escaped(cell: str) -> str:
    escaped = "".join(LATEX.get(character, character) for character in cell)
    # After the line break \\ a bracket would begin the break's length.
    return f"{{{escaped[0]}}}{escaped[1:]}" if escaped.startswith(("[", "*")) else escaped
