"""Means of seeds with their intervals, as marks on the axes of a figure."""

from collections.abc import Sequence

import numpy as np
import pandas as pd
from matplotlib.axes import Axes

from hglad.analysis.labels import LABELS
from hglad.analysis.plots.style import ACCURACY, COLOURS
from hglad.analysis.statistics import seed_means, summarise


def methods_beside(axes: Axes, rows: pd.DataFrame, column: str, values: Sequence) -> None:
    """Estimates of the methods beside each other at each value of a column."""
    methods = [method for method in LABELS if method != "full" and method in set(rows["method"])]
    for place, method in enumerate(methods):
        for x, value in enumerate(values):
            part = rows[(rows["method"] == method) & (rows[column] == value)]
            shift = (place - (len(methods) - 1) / 2) * 0.8 / len(methods)
            estimate(axes, x + shift, part, COLOURS[method], LABELS[method] if x == 0 else None)


def estimate(
    axes: Axes, x: float, rows: pd.DataFrame, colour: str, label: str | None = None, spread: float = 0.05
) -> float:
    """Dots of the seeds, their mean and its 95 % t interval; returns the mean."""
    if rows.empty:
        return float("nan")
    dots = seed_means(rows, ["method"])["accuracy"].to_numpy()
    places = x + (np.linspace(-spread, spread, len(dots)) if len(dots) > 1 else np.zeros(1))
    axes.plot(places, dots, "o", color=colour, alpha=0.45, markersize=4, markeredgewidth=0)
    summary = summarise(rows, ["method"]).iloc[0]
    half = np.nan_to_num(summary["high"] - summary["mean"])  # one seed has no interval
    marks = {"fmt": "D", "markersize": 6, "markeredgecolor": "white", "capsize": 4}
    axes.errorbar(x, summary["mean"], yerr=half, color=colour, label=label, **marks)
    return summary["mean"]


def across(axes: Axes, y: float, rows: pd.DataFrame, colour: str, marker: str, label: str | None) -> float:
    """Mean over seeds of the mean over networks, with its 95 % t interval, at height y; returns the mean."""
    if rows.empty:
        return float("nan")
    sets = rows.groupby("seed")["accuracy"].mean().reset_index().assign(repeat=0, method="")
    summary = summarise(sets, ["method"]).iloc[0]
    half = np.nan_to_num(summary["high"] - summary["mean"])
    empty = {"markerfacecolor": "white"} if marker == "o" else {}
    axes.errorbar(
        summary["mean"], y, xerr=half, color=colour, fmt=marker, markersize=6, capsize=3, label=label, **empty
    )
    return summary["mean"]


def name_rows(axes: Axes, names: Sequence[str]) -> None:
    """Names of methods on the vertical axis, accuracy on the horizontal one."""
    axes.set_yticks(range(len(names)), names)
    axes.set_xlabel(ACCURACY)
    axes.grid(axis="x", color="#e3e3e3")
    axes.grid(axis="y", visible=False)
    low, high = axes.get_xlim()
    axes.set_xlim(max(low, 0), min(high, 101))  # an interval may reach beyond what an accuracy can be
