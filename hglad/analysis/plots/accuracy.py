"""Accuracy of the methods: by ipc, by network, one below the other."""

import matplotlib
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from hglad.analysis.labels import LABELS
from hglad.analysis.plots.estimates import across, methods_beside, name_rows
from hglad.analysis.plots.full_set import mark_full_set
from hglad.analysis.plots.style import (
    ACCURACY,
    COLOURS,
    STYLE,
    WIDTH,
    finish,
    limit_to_percent,
    objective_panels,
)


@matplotlib.rc_context(STYLE)
def accuracy_by_ipc(rows: pd.DataFrame) -> Figure:
    """Accuracy of each method at each ipc, one panel per objective; the full set is a dashed line.

    Args:
        rows: result rows of one network, with one layer for the single-layer search.
    """
    ipcs = sorted(rows["ipc"].dropna().unique())
    figure, panels = objective_panels(rows, height=3.4)
    for axes, part in panels:
        methods_beside(axes, part, "ipc", ipcs)
        axes.set_xticks(range(len(ipcs)), [f"{ipc:g}" for ipc in ipcs])
        axes.set(xlabel="images per class (ipc)", ylabel=ACCURACY, xlim=(-0.5, len(ipcs) - 0.5))
    full = rows[rows["method"] == "full"]["accuracy"]
    mark_full_set([(axes, {None: full.mean()} if len(full) else {}) for axes, _ in panels])
    limit_to_percent(panels[0][0])  # the panels share the axis
    return finish(figure)


@matplotlib.rc_context(STYLE)
def accuracy_by_network(rows: pd.DataFrame) -> Figure:
    """Accuracy of each method on each architecture, one panel per objective; dashes are the full set.

    Args:
        rows: result rows of one ipc; networks come in the order of the rows.
    """
    networks = list(dict.fromkeys(rows["network"]))
    one = rows["objective"].nunique() < 2
    figure, panels = objective_panels(rows, height=3.4 if one else 2.6, stacked=True)
    for axes, part in panels:
        methods_beside(axes, part, "network", networks)
        axes.set_xticks(range(len(networks)), networks)
        axes.set(ylabel=ACCURACY, xlim=(-0.5, len(networks) - 0.5))
    full = rows[rows["method"] == "full"].groupby("network")["accuracy"].mean()
    means = {networks.index(network): mean for network, mean in full.items()}
    mark_full_set([(axes, means) for axes, _ in panels])
    limit_to_percent(panels[0][0])
    return finish(figure)


@matplotlib.rc_context(STYLE)
def network_gaps(rows: pd.DataFrame, main: str) -> Figure:
    """Accuracy of each method on the main network and, joined by a line, its mean over the other networks.

    The full set is left out where one network alone was trained on it.

    Args:
        rows: result rows of one ipc on several networks.
        main: label of the main network, which the sets were made with.
    """
    figure, panels = objective_panels(rows, height=2.9)
    place = {"main": ("D", main), "others": ("o", "mean of the other networks")}
    for axes, part in panels:
        both = part[part["method"] != "full"] if _full_on_one_of_several(part) else part
        methods = [method for method in LABELS if method in set(both["method"])]
        for y, method in enumerate(methods):
            own = part[part["method"] == method]
            sides = {"main": own[own["network"] == main], "others": own[own["network"] != main]}
            means, heights = [], (y - 0.14, y + 0.14)  # so that the two intervals do not hide each other
            for height, (side, (marker, label)) in zip(heights, place.items(), strict=True):
                named = label if y == 0 else None
                means.append(across(axes, height, sides[side], COLOURS[method], marker, named))
            axes.plot(means, heights, color="#999999", linewidth=1, zorder=1)
        name_rows(axes, [LABELS[method] for method in methods])
    panels[0][0].invert_yaxis()
    return finish(figure)


def _full_on_one_of_several(rows: pd.DataFrame) -> bool:
    return rows[rows["method"] == "full"]["network"].nunique() == 1 < rows["network"].nunique()


@matplotlib.rc_context(STYLE)
def accuracy_by_method(rows: pd.DataFrame) -> Figure:
    """Accuracy of each method, with each objective, a panel per ipc; the full set is a dashed line.

    Args:
        rows: result rows of one network and one way of training.
    """
    ipcs, lines = sorted(rows["ipc"].dropna().unique()), _lines(rows[rows["method"] != "full"])
    figure = Figure(figsize=(WIDTH, 0.9 + 0.3 * (len(lines) + 1)), layout="constrained")
    panels = figure.subplots(1, len(ipcs), squeeze=False, sharey=True)[0]
    full = rows[rows["method"] == "full"]["accuracy"]
    for axes, ipc in zip(panels, ipcs, strict=True):
        for y, (method, part) in enumerate(lines.values()):
            _seeds_across(axes, y, part[part["ipc"] == ipc], COLOURS[method])
        mark_full_set([(axes, {None: full.mean()} if len(full) else {})], along="x")
        axes.set_title(f"{ipc:g} image{'s' if ipc > 1 else ''} per class")
        name_rows(axes, list(lines))
    panels[0].invert_yaxis()
    return finish(figure)


def _lines(rows: pd.DataFrame) -> dict[str, tuple[str, pd.DataFrame]]:
    """By their names: methods with their rows, one for each objective where there are several."""
    objectives = list(rows["objective"].dropna().unique())
    lines = {}
    for method in (name for name in LABELS if name in set(rows["method"])):
        own = rows[rows["method"] == method]
        if own["objective"].isna().all() or len(objectives) < 2:
            lines[LABELS[method]] = method, own
            continue
        for objective in objectives:
            lines[f"{LABELS[method]} ({objective.upper()})"] = method, own[own["objective"] == objective]
    return lines


def _seeds_across(axes: Axes, y: float, rows: pd.DataFrame, colour: str) -> None:
    """Dots of the seeds at height y, their mean and its 95 % t interval."""
    seeds = rows.groupby("seed")["accuracy"].mean()
    places = np.full(len(seeds), y)
    axes.plot(seeds, places, "o", color=colour, alpha=0.45, markersize=4, markeredgewidth=0)
    across(axes, y, rows, colour, "D", None)
