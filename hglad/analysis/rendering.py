"""Finished tables as text, Markdown or LaTeX, with notes below."""

import re
from collections.abc import Iterable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Self

import pandas as pd

from hglad.errors import HgladError
from hglad.settings import suggestion
from hglad.storage import publish


@dataclass(frozen=True)
class Table:
    """A table of finished cells with what is said below it."""

    frame: pd.DataFrame
    """Cells as text."""
    notes: tuple[str, ...]
    """What the numbers are and where they come from."""

    def noted(self, notes: Iterable[str]) -> Self:
        """The same table with further notes."""
        return replace(self, notes=(*self.notes, *notes))


FORMATS = {".txt": "text", ".md": "markdown", ".tex": "latex", ".csv": "csv"}


def chosen_format(name: str | None, out: str | Path | None) -> str:
    """Format of a table: the one named, else that of the file's suffix, else text.

    Raises:
        HgladError: unknown format or suffix, or a suffix of another format.
    """
    if name is not None and name not in FORMATS.values():
        raise HgladError(f"unknown format '{name}': {suggestion(name, FORMATS.values())}")
    if out is None:
        return name or "text"
    found = FORMATS.get(Path(out).suffix)
    if found is None or name not in (None, found):
        wanted = next((suffix for suffix, each in FORMATS.items() if each == name), " or ".join(FORMATS))
        raise HgladError(f"cannot write {out} as {name or 'a table'}: expected a name that ends in {wanted}")
    return found


def render(tables: Iterable[Table], form: str) -> str:
    """Tables one below the other as "text", "markdown" or "latex" (packages booktabs and inputenc)."""
    return "\n".join(
        RENDERERS[form](table) if len(table.frame) else _notes_alone(table, form) for table in tables
    )


def _notes_alone(table: Table, form: str) -> str:
    return "".join(f"{'% ' if form == 'latex' else ''}{note}\n" for note in table.notes)


def _as_text(table: Table) -> str:
    return "\n".join([table.frame.to_string(index=False), "", *table.notes, ""])


def _as_markdown(table: Table) -> str:
    frame = table.frame.map(lambda text: text.replace("|", r"\|"))
    return "\n".join([frame.to_markdown(index=False, disable_numparse=True), "", *table.notes, ""])


def _as_latex(table: Table) -> str:
    frame = table.frame.rename(columns=latex).map(latex)
    caption = " ".join(map(latex, table.notes))
    wide = [texts.str.len().max() > 40 for _, texts in frame.items()]
    columns = "".join("p{4cm}" if each else "l" for each in wide)
    styled = frame.style.hide(axis="index")
    return styled.to_latex(column_format=columns, hrules=True, caption=caption, position_float="centering")


RENDERERS = {"text": _as_text, "markdown": _as_markdown, "latex": _as_latex}
LATEX = {character: f"\\{character}" for character in "&%$#_{}"} | {
    "\\": r"\textbackslash{}",
    "~": r"\textasciitilde{}",
    "^": r"\textasciicircum{}",
    "±": r"$\pm$",
    "×": r"$\times$",
    "−": "$-$",
    "–": "--",
}


def latex(text: str) -> str:
    """Text with LaTeX's own characters escaped, and the signs of cells as LaTeX writes them."""
    return re.sub("|".join(map(re.escape, LATEX)), lambda found: LATEX[found[0]], text)


def write_text(path: str | Path, text: str) -> None:
    """Write a text file, whole or not at all."""
    with publish(path) as draft:
        draft.write_text(text)
