"""Figures as files: PNG and SVG without dates, so that equal figures are equal bytes, and numbers as CSV."""

import io
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass

import matplotlib
import pandas as pd
from matplotlib.figure import Figure
from PIL import Image

DPI = 130
LARGE = 2**17  # bytes of a PNG; photographs do not compress, and a page has many


@dataclass(frozen=True)
class Shown:
    """A figure that a notebook shows."""

    figure: Figure
    numbers: pd.DataFrame | None
    """What it is drawn from; None for pictures."""
    name: str
    """Name of its files."""


_gathered: ContextVar[list[Shown] | None] = ContextVar("gathered", default=None)


@contextmanager
def gathering() -> Iterator[list[Shown]]:
    """Collect the figures that `hglad.analysis.report.picture` shows meanwhile, in their order."""
    found: list[Shown] = []
    token = _gathered.set(found)
    try:
        yield found
    finally:
        _gathered.reset(token)


def note(shown: Shown) -> None:
    """Add a figure to those that are being gathered, if any are."""
    found = _gathered.get()
    if found is not None:
        found.append(shown)


def as_png(figure: Figure) -> bytes:
    """Pixels, `DPI` to the inch; those of large pictures in 256 colours, which look the same."""
    buffer = io.BytesIO()
    figure.savefig(buffer, dpi=DPI, format="png", metadata={"Software": None})
    content = buffer.getvalue()
    return content if len(content) <= LARGE else _in_few_colours(content)


def _in_few_colours(png: bytes) -> bytes:
    buffer, image = io.BytesIO(), Image.open(io.BytesIO(png)).convert("RGB")
    few = image.quantize(256, Image.Quantize.MEDIANCUT, kmeans=3, dither=Image.Dither.NONE)
    few.save(buffer, "PNG", optimize=True)
    return buffer.getvalue()


def as_svg(figure: Figure) -> bytes:
    """Vectors; images inside stay pixels."""
    buffer = io.BytesIO()
    with matplotlib.rc_context({"svg.hashsalt": "hglad"}):  # names inside the file are random otherwise
        figure.savefig(buffer, dpi=DPI, format="svg", metadata={"Date": None, "Creator": None})
    return buffer.getvalue()


def as_csv(numbers: pd.DataFrame) -> str:
    """Numbers of a figure, six digits each, without empty columns and keys of results."""
    numbers = numbers.drop(columns="key", errors="ignore").dropna(axis="columns", how="all")
    return numbers.to_csv(index=False, float_format="%.6g", lineterminator="\n")
