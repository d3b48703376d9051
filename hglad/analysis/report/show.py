"""Forms in which a notebook shows things: tables, sentences, pictures with their numbers."""

import base64
from dataclasses import dataclass
from html import escape

import pandas as pd
from IPython.display import Image, display
from matplotlib.figure import Figure

from hglad.analysis import rendering
from hglad.analysis.figures import Shown, as_csv, as_png, note
from hglad.analysis.report.texts import NONE


@dataclass(frozen=True)
class Table:
    """A data frame of finished cells, shown as plain HTML or text."""

    frame: pd.DataFrame
    index: bool = False
    """Whether the index is a column of the table."""
    wrapped: bool = False
    """Whether long cells and titles break into lines."""

    def _repr_html_(self) -> str:
        html = self.frame.to_html(index=self.index, border=0, justify="left", na_rep=NONE)
        if not self.wrapped:
            return html
        for tag in ("td", "th"):
            html = html.replace(f"<{tag}>", f'<{tag} style="white-space: normal">')
        return html

    def __repr__(self) -> str:
        return self.frame.to_string(index=self.index, na_rep=NONE)


@dataclass(frozen=True)
class Sentences:
    """Sentences that follow from numbers by rule, one below the other."""

    lines: tuple[str, ...]

    def _repr_html_(self) -> str:
        return "<ul>" + "".join(f"<li>{escape(line)}</li>" for line in self.lines) + "</ul>"

    def __repr__(self) -> str:
        return "\n".join(self.lines)


@dataclass(frozen=True)
class Downloads:
    """Links below a figure: the picture itself, which the page already has, and its numbers."""

    name: str
    csv: str

    def _repr_html_(self) -> str:
        numbers = base64.b64encode(self.csv.encode()).decode()
        shown = "this.href = this.closest('.cell_output').querySelector('img').src"
        return (
            '<p class="downloads" style="text-align: right; font-size: 85%">Download: '
            f'<a href="#" download="{self.name}.png" onclick="{shown}">figure</a> · '
            f'<a href="data:text/csv;base64,{numbers}" download="{self.name}.csv">its numbers (CSV)</a></p>'
        )

    def __repr__(self) -> str:
        return f"{self.name}: {self.csv.count(chr(10)) - 1} rows"


def picture(figure: Figure, numbers: pd.DataFrame | None = None, name: str = "figure") -> Image | Downloads:
    """A figure as PNG, without date and version, so that equal figures are equal bytes.

    Args:
        figure: what is shown.
        numbers: what it is drawn from; with them, links to both are below.
        name: of the files that the links give.
    """
    note(Shown(figure, numbers, name))
    image = Image(as_png(figure))
    if numbers is None:
        return image
    display(image)
    return Downloads(name, as_csv(numbers))


def noted(table: rendering.Table) -> Sentences:
    """What is said below a result table; shows the table."""
    display(Table(table.frame, wrapped=True))
    return Sentences(table.notes)
