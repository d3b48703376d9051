"""Colours, sizes, panels and legends that the figures share."""

from collections.abc import Sequence
from textwrap import fill

import numpy as np
import pandas as pd
import seaborn as sns
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, LogLocator, MaxNLocator, NullLocator

from hglad.analysis.labels import LABELS

# Colours of Okabe & Ito (2008), told apart with any colour vision; a method has the same one everywhere.
COLOURS = {
    "random": "#7f7f7f",
    "class_mean": "#CC79A7",
    "herding": "#56B4E9",
    "k_center": "#D55E00",
    "samples": "#A6761D",
    "samples_averaged": "#B8A800",
    "pixels": "#0072B2",
    "single": "#E69F00",
    "hierarchical": "#009E73",
    "full": "#000000",
}
ACCURACY = "test accuracy (%)"
SELECTED = {"markeredgecolor": "black", "markersize": 7}
WIDTH = 7.2  # inches
LABEL_WIDTH = 1.2  # inches for the labels of image rows
STYLE = {
    "font.size": 9,
    "axes.titlesize": 9.5,
    "axes.axisbelow": True,
    "axes.edgecolor": "#555555",
    "axes.grid.axis": "y",
    "axes.grid": True,
    "grid.color": "#e3e3e3",
    "legend.frameon": False,
}


def column_names(names: Sequence[object], column: float) -> tuple[list[str], float]:
    """Names on lines of few letters, and the points at which they do not meet on columns of these inches."""
    lines = [fill(str(name), 10, break_long_words=False) for name in names]
    longest = max(len(line) for name in lines for line in name.split("\n"))
    return lines, min(9.0, 100 * column / longest)


def objective_panels(
    rows: pd.DataFrame, height: float, stacked: bool = False
) -> tuple[Figure, list[tuple[Axes, pd.DataFrame]]]:
    """A panel of `height` inches per objective, with its rows and those of the baselines.

    Args:
        stacked: one below the other, each as wide as the page, instead of beside each other.
    """
    objectives = list(rows["objective"].dropna().unique()) if "objective" in rows else []
    count = max(1, len(objectives))
    grid = (count, 1) if stacked else (1, count)
    figure = Figure(figsize=(WIDTH, height * grid[0]), layout="constrained")
    panels = figure.subplots(*grid, sharex=stacked, sharey=True, squeeze=False).flatten()
    if len(objectives) < 2:
        return figure, [(panels[0], rows)]
    for axes, objective in zip(panels, objectives, strict=True):
        axes.set_title(objective.upper())
    parts = [rows[rows["objective"].isin([objective]) | rows["objective"].isna()] for objective in objectives]
    return figure, list(zip(panels, parts, strict=True))


def limit_to_percent(axes: Axes) -> None:
    """An interval may reach beyond what an accuracy can be; the axis does not."""
    low, high = axes.get_ylim()
    axes.set_ylim(max(low, 0), min(high, 101))


def plain_log_ticks(axis, few: bool = False) -> None:
    """Ticks at 0.2, 0.5, 1, ... on a logarithmic axis, closer ones where it spans little; `few` if narrow."""
    low, high = axis.get_view_interval()
    steps = (1, 2, 5) if high > 8 * low else range(1, 10) if high > 2 * low else np.arange(1, 10, 0.5)
    if few:
        locator = LogLocator(subs=(1, 3)) if high > 8 * low else MaxNLocator(3)
    else:
        locator = LogLocator(subs=steps)
    axis.set_major_locator(locator)
    axis.set_minor_locator(NullLocator())
    axis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))


def finish(figure: Figure) -> Figure:
    """The figure with one legend below, the full set last in it, and without the upper and right edges."""
    handles, labels = figure.axes[0].get_legend_handles_labels()
    order = sorted(
        range(len(labels)), key=lambda index: labels[index] == LABELS["full"]
    )  # the reference last
    handles, labels = [handles[index] for index in order], [labels[index] for index in order]
    if labels:
        columns = len(labels) if len(labels) <= 6 else (len(labels) + 1) // 2
        figure.legend(handles, labels, loc="outside lower center", ncols=columns)
    for axes in figure.axes:
        sns.despine(ax=axes)
    return figure
