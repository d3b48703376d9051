"""Every figure of the book: one function each, tidy rows in, a figure out.

The figures are made without pyplot and its global state, so the same rows give the same bytes.
"""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from itertools import cycle, pairwise
from textwrap import fill

import matplotlib
import numpy as np
import pandas as pd
import seaborn as sns
import torch
from matplotlib.axes import Axes
from matplotlib.cm import ScalarMappable
from matplotlib.colors import Normalize
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from matplotlib.ticker import FuncFormatter, LogLocator, MaxNLocator, NullLocator
from torch import Tensor
from torch.nn.functional import interpolate
from torchvision.utils import make_grid

from hglad.errors import HgladError
from hglad.labels import LABELS, metric_label
from hglad.stages import Stage
from hglad.statistics import seed_means, summarise

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


@matplotlib.rc_context(STYLE)
def accuracy_by_ipc(rows: pd.DataFrame) -> Figure:
    """Accuracy of each method at each ipc, one panel per objective; the full set is a dashed line.

    Args:
        rows: result rows of one network, with one layer for the single-layer search.
    """
    ipcs = sorted(rows["ipc"].dropna().unique())
    figure, panels = _panels(rows, height=3.4)
    for axes, part in panels:
        _methods_beside(axes, part, "ipc", ipcs)
        full = seed_means(part[part["method"] == "full"], ["method"])["accuracy"]
        if len(full):
            axes.axhline(
                full.mean(), color=COLOURS["full"], linestyle="--", linewidth=1, label=LABELS["full"]
            )
        axes.set_xticks(range(len(ipcs)), [f"{ipc:g}" for ipc in ipcs])
        axes.set(xlabel="images per class (ipc)", ylabel=ACCURACY, xlim=(-0.5, len(ipcs) - 0.5))
        _limit_to_percent(axes)
    return _finish(figure)


@matplotlib.rc_context(STYLE)
def accuracy_by_network(rows: pd.DataFrame) -> Figure:
    """Accuracy of each method on each architecture, one panel per objective; dashes are the full set.

    Args:
        rows: result rows of one ipc; networks come in the order of the rows.
    """
    networks = list(dict.fromkeys(rows["network"]))
    figure, panels = _panels(rows, height=3.4)
    for axes, part in panels:
        _methods_beside(axes, part, "network", networks)
        for x, network in enumerate(networks):
            full = part[(part["method"] == "full") & (part["network"] == network)]["accuracy"]
            label = LABELS["full"] if x == 0 else None
            axes.hlines(full.mean(), x - 0.4, x + 0.4, colors=COLOURS["full"], linestyles="--", label=label)
        axes.set_xticks(range(len(networks)), networks)
        axes.set(ylabel=ACCURACY, xlim=(-0.5, len(networks) - 0.5))
        _limit_to_percent(axes)
    return _finish(figure)


@matplotlib.rc_context(STYLE)
def network_gaps(rows: pd.DataFrame, main: str) -> Figure:
    """Accuracy of each method on the main network and, joined by a line, its mean over the other networks.

    Args:
        rows: result rows of one ipc on several networks.
        main: label of the main network, which the sets were made with.
    """
    figure, panels = _panels(rows, height=2.9)
    place = {"main": ("D", main), "others": ("o", "mean of the other networks")}
    for axes, part in panels:
        methods = [method for method in LABELS if method in set(part["method"])]
        for y, method in enumerate(methods):
            own = part[part["method"] == method]
            sides = {"main": own[own["network"] == main], "others": own[own["network"] != main]}
            means, heights = [], (y - 0.14, y + 0.14)  # so that the two intervals do not hide each other
            for height, (side, (marker, label)) in zip(heights, place.items(), strict=True):
                named = label if y == 0 else None
                means.append(_across(axes, height, sides[side], COLOURS[method], marker, named))
            axes.plot(means, heights, color="#999999", linewidth=1, zorder=1)
        _name_rows(axes, methods)
    panels[0][0].invert_yaxis()
    return _finish(figure)


def _name_rows(axes: Axes, methods: Sequence[str]) -> None:
    """Methods on the vertical axis, accuracy on the horizontal one."""
    axes.set_yticks(range(len(methods)), [LABELS[method] for method in methods])
    axes.set_xlabel(ACCURACY)
    axes.grid(axis="x", color="#e3e3e3")
    axes.grid(axis="y", visible=False)
    low, high = axes.get_xlim()
    axes.set_xlim(max(low, 0), min(high, 101))  # an interval may reach beyond what an accuracy can be


def _across(axes: Axes, y: float, rows: pd.DataFrame, colour: str, marker: str, label: str | None) -> float:
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


@matplotlib.rc_context(STYLE)
def class_accuracies(matrices: Mapping[str, np.ndarray], classes: Sequence[str]) -> Figure:
    """Test accuracy on each class, a row per method, darker is better; the worst class of a row is framed.

    Args:
        matrices: method to shares (true class, predicted class) in percent.
        classes: names.
    """
    table = pd.DataFrame({name: shares.diagonal() for name, shares in matrices.items()}, index=classes).T
    figure = Figure(figsize=(WIDTH, 0.8 + 0.36 * len(table)), layout="constrained")
    axes = figure.subplots()
    bar = {"label": "accuracy (%)"}
    sns.heatmap(
        table, ax=axes, annot=True, fmt=".0f", cmap="Blues", vmin=0, vmax=100, cbar_kws=bar, linewidths=1
    )
    for y, worst in enumerate(table.to_numpy().argmin(axis=1)):
        axes.add_patch(Rectangle((worst, y), 1, 1, fill=False, edgecolor="#D55E00", linewidth=2))
    axes.tick_params(axis="y", rotation=0)
    return figure


@matplotlib.rc_context(STYLE)
def worst_confusion(matrices: Mapping[str, np.ndarray], classes: Sequence[str]) -> Figure:
    """What the images of the worst class of each method are taken for, a row per method.

    Args:
        matrices: method to shares (true class, predicted class) in percent.
        classes: names.
    """
    worst = {name: int(shares.diagonal().argmin()) for name, shares in matrices.items()}
    table = pd.DataFrame({name: shares[worst[name]] for name, shares in matrices.items()}, index=classes).T
    table.index = [f"{name}: {classes[worst[name]]}" for name in table.index]
    figure = Figure(figsize=(WIDTH, 0.95 + 0.36 * len(table)), layout="constrained")
    axes = figure.subplots()
    bar = {"label": "of the class (%)"}
    sns.heatmap(
        table, ax=axes, annot=True, fmt=".0f", cmap="Oranges", vmin=0, vmax=100, cbar_kws=bar, linewidths=1
    )
    for y, column in enumerate(worst.values()):
        axes.add_patch(Rectangle((column, y), 1, 1, fill=False, edgecolor="#0072B2", linewidth=2))
    axes.set_xlabel("taken for (framed: right)")
    axes.tick_params(axis="y", rotation=0)
    return figure


@matplotlib.rc_context(STYLE)
def accuracy_by_method(rows: pd.DataFrame) -> Figure:
    """Accuracy of each method, a panel per ipc; the full set is a dashed line.

    Args:
        rows: result rows of one network and one way of training.
    """
    ipcs = sorted(rows["ipc"].dropna().unique())
    figure = Figure(figsize=(WIDTH, 0.9 + 0.3 * rows["method"].nunique()), layout="constrained")
    panels = figure.subplots(1, len(ipcs), squeeze=False, sharey=True)[0]
    methods = [method for method in LABELS if method != "full" and method in set(rows["method"])]
    full = rows[rows["method"] == "full"]["accuracy"]
    for axes, ipc in zip(panels, ipcs, strict=True):
        for y, method in enumerate(methods):
            part = rows[(rows["method"] == method) & (rows["ipc"] == ipc)]
            seeds = part.groupby("seed")["accuracy"].mean()
            axes.plot(
                seeds,
                np.full(len(seeds), y),
                "o",
                color=COLOURS[method],
                alpha=0.45,
                markersize=4,
                markeredgewidth=0,
            )
            _across(axes, y, part, COLOURS[method], "D", None)
        if len(full):
            axes.axvline(
                full.mean(), color=COLOURS["full"], linestyle="--", linewidth=1, label=LABELS["full"]
            )
        axes.set_title(f"{ipc:g} image{'s' if ipc > 1 else ''} per class")
        _name_rows(axes, methods)
    panels[0].invert_yaxis()
    return _finish(figure)


@matplotlib.rc_context(STYLE)
def layer_sweep(rows: pd.DataFrame, names: Sequence[str], chosen: int) -> Figure:
    """Accuracy against the split layer that the search is confined to.

    Args:
        rows: result rows; `layer` is an index into `names`, also for the pixels.
        names: split layers, pixel space last.
        chosen: the layer of GLaD in the profile, shaded.
    """
    figure, ((axes, _),) = _panels(rows, height=3.2)
    axes.axvspan(chosen - 0.4, chosen + 0.4, color="#f3e9d2", zorder=0, label="layer of the profile")
    _sweep(axes, rows, names)
    return _finish(figure)


@matplotlib.rc_context(STYLE)
def family_sweeps(sweeps: Mapping[str, tuple[pd.DataFrame, Sequence[str]]]) -> Figure:
    """Layer sweeps of several generators below each other, on one scale of accuracy.

    Args:
        sweeps: generator to rows and names, as `layer_sweep` takes them.
    """
    figure = Figure(figsize=(WIDTH, 2.7 * len(sweeps)), layout="constrained")
    grid = figure.subplots(len(sweeps), 1, squeeze=False, sharey=True)
    for axes, (name, (rows, names)) in zip(grid[:, 0], sweeps.items(), strict=True):
        _sweep(axes, rows, names)
        axes.set_title(name, loc="left")
    return _finish(figure)


def _sweep(axes: Axes, rows: pd.DataFrame, names: Sequence[str]) -> None:
    means = []
    for layer in range(len(names)):
        method = "pixels" if layer == len(names) - 1 else "single"
        label = LABELS[method] if layer in (0, len(names) - 1) else None
        part = rows[rows["layer"] == layer]
        means.append(_estimate(axes, layer, part, COLOURS[method], label, spread=0.15))
    axes.plot(range(len(names)), means, color="#999999", linewidth=1, zorder=1)
    axes.set_xticks(range(len(names)), names)
    axes.set(xlabel="split layer of the search", ylabel=ACCURACY)
    _limit_to_percent(axes)


@matplotlib.rc_context(STYLE)
def distance_over_steps(history: pd.DataFrame, stages: Sequence[Stage], distance: str) -> Figure:
    """Distance of the measured iterates over all steps of hierarchical runs, a curve per seed.

    Args:
        history: `seed`, `stage`, `step` (within the stage), `distance`, `selected`.
        stages: stage table of the runs; every second one is shaded.
        distance: name of the metric.
    """
    figure, ((axes, _),) = _panels(history, height=3.4)
    starts = np.cumsum([0, *(stage.steps for stage in stages)])
    _shade_stages(axes, stages, starts)
    _seed_curves(axes, history, starts, "distance")
    axes.plot([], [], "o", color="white", label="selected", **SELECTED)
    axes.set_yscale("log")
    _plain_log_ticks(axes.yaxis)
    axes.set(xlabel="step", ylabel=metric_label(distance), xlim=(0, starts[-1]))
    return _finish(figure)


def _shade_stages(axes: Axes, stages: Sequence[Stage], starts: np.ndarray) -> None:
    narrow = min(stage.steps for stage in stages) < 0.1 * starts[-1]  # their names would meet
    turned = {"rotation": 35, "ha": "left"} if narrow else {"ha": "center"}
    for index, stage in enumerate(stages):
        if index % 2 == 0:
            axes.axvspan(starts[index], starts[index + 1], color="#f0f0f0", zorder=0, linewidth=0)
        axes.annotate(
            stage.name,
            ((starts[index] + starts[index + 1]) / 2, 1.01),
            xycoords=("data", "axes fraction"),
            va="bottom",
            fontsize=8,
            **turned,
        )


@matplotlib.rc_context(STYLE)
def distance_and_accuracy(distances: pd.DataFrame, metrics: Sequence[str], layers: Sequence[str]) -> Figure:
    """Accuracy of every iterate against its distance, a panel per metric; colour: layer, shape: objective.

    Args:
        distances: `objective`, `layer` (index into `layers`), `accuracy`, and a column per metric.
        metrics: those columns.
        layers: names of the split points.
    """
    lines = -(-len(metrics) // 3)
    columns = -(-len(metrics) // lines)
    figure = Figure(figsize=(WIDTH, 0.7 + 2.4 * lines), layout="constrained")
    panels = figure.subplots(lines, columns, sharey=True, squeeze=False).flatten()
    colours = sns.color_palette("viridis", len(layers))
    for axes, metric in zip(panels, metrics, strict=False):
        for (_, rows), marker in zip(
            distances.groupby("objective", sort=False), cycle("o^sDvP"), strict=False
        ):
            colour = [colours[layer] for layer in rows["layer"]]
            axes.scatter(rows[metric], rows["accuracy"], c=colour, marker=marker, s=14, linewidths=0)
        axes.set_xscale("log")
        _plain_log_ticks(axes.xaxis, few=True)
        axes.set(xlabel=fill(metric_label(metric), 34))
    for axes in panels[len(metrics) :]:
        axes.set_visible(False)
    for axes in panels[::columns]:
        axes.set_ylabel(ACCURACY)
    for objective, marker in zip(dict.fromkeys(distances["objective"]), "o^sDvP", strict=False):
        panels[0].plot([], [], marker, color="#777777", label=objective.upper())
    for name, colour in zip(layers, colours, strict=True):
        panels[0].plot([], [], "o", color=colour, label=name)
    return _finish(figure)


@matplotlib.rc_context(STYLE)
def effects(table: pd.DataFrame, base: str) -> Figure:
    """Accuracy of variants of a search minus that of `base`, with 95 % intervals, a panel per objective.

    Args:
        table: `variant`, `objective`, `mean`, `low`, `high`, as `selection.effects` gives them.
        base: what the zero line stands for.
    """
    objectives, variants = (list(dict.fromkeys(table[key])) for key in ("objective", "variant"))
    figure = Figure(figsize=(WIDTH, 0.9 + 0.4 * len(variants)), layout="constrained")
    panels = figure.subplots(1, len(objectives), sharey=True, squeeze=False)[0]
    for axes, objective in zip(panels, objectives, strict=True):
        part = table[table["objective"] == objective].set_index("variant").loc[variants]
        half = np.nan_to_num(part["high"] - part["mean"])
        axes.axvline(0, color="#555555", linewidth=1)
        marks = {"fmt": "D", "markersize": 5, "capsize": 3, "color": COLOURS["hierarchical"]}
        axes.errorbar(part["mean"], range(len(variants)), xerr=half, **marks)
        axes.set(xlabel="points of test accuracy", title=f"{objective.upper()}: change from {base!r}")
        axes.grid(axis="x")
    panels[0].set_yticks(range(len(variants)), [fill(variant, 26) for variant in variants])
    panels[0].invert_yaxis()
    sns.despine(figure)
    return figure


@matplotlib.rc_context(STYLE)
def chosen_accuracy(choices: pd.DataFrame) -> Figure:
    """Accuracy of the iterate that each rule picks, a panel per objective; a thin line joins each run.

    Args:
        choices: `rule`, `objective`, `seed` (a name of the run), `accuracy`, rules in the order of the axis.
    """
    rules, objectives = (list(dict.fromkeys(choices[key])) for key in ("rule", "objective"))
    figure = Figure(figsize=(WIDTH, 0.8 + 2.4 * len(objectives)), layout="constrained")
    panels = figure.subplots(len(objectives), 1, sharex=True, squeeze=False)[:, 0]
    for axes, objective in zip(panels, objectives, strict=True):
        part = choices[choices["objective"] == objective]
        for _, run in part.groupby("seed"):
            places = [rules.index(rule) for rule in run["rule"]]
            axes.plot(places, run["accuracy"], color="#bbbbbb", linewidth=0.8)
        for x, rule in enumerate(rules):
            rows = part[part["rule"] == rule].assign(method=rule)
            _estimate(axes, x, rows, COLOURS["full"] if x == len(rules) - 1 else COLOURS["hierarchical"])
        axes.set(ylabel=ACCURACY, xlim=(-0.5, len(rules) - 0.5))
        if len(objectives) > 1:
            axes.set_title(objective.upper())
        _limit_to_percent(axes)
    width = max(11, 92 // len(rules))  # characters that stand below a rule
    panels[-1].set_xticks(range(len(rules)), [fill(rule, width) for rule in rules], fontsize=8)
    return _finish(figure)


@matplotlib.rc_context(STYLE)
def image_rows(rows: dict[str, Tensor], classes: Sequence[str]) -> Figure:
    """A labelled row of images (class, channels, height, width), in [0, 1], per entry; columns: classes."""
    cell = min(0.62, (WIDTH - LABEL_WIDTH) / len(classes))
    size = (LABEL_WIDTH + cell * len(classes), cell * 1.12 * len(rows) + 0.3)
    figure = Figure(figsize=size, layout="constrained")
    panels = figure.subplots(len(rows), 1, squeeze=False)[:, 0]
    for axes, (label, images) in zip(panels, rows.items(), strict=True):
        _draw_grid(axes, images, columns=len(images))
        lines = [fill(line, 14) for line in label.split("\n")]
        axes.set_ylabel("\n".join(lines), rotation=0, ha="right", va="center")
    width = images.shape[-1] + 1
    panels[0].set_xticks([(index + 0.5) * width for index in range(len(classes))], classes)
    fitting = min(9.0, 110 * cell / max(len(str(name)) for name in classes))  # points; long names do not meet
    panels[0].tick_params(
        top=True, labeltop=True, bottom=False, labelbottom=False, length=0, labelsize=fitting
    )
    return figure


@matplotlib.rc_context(STYLE)
def image_panels(sets: dict[str, Tensor], per_class: int) -> Figure:
    """One grid per entry, a column per class, of images (n, channels, height, width) sorted by class."""
    classes = len(next(iter(sets.values()))) // per_class
    height = WIDTH / len(sets) * per_class / classes + 0.3
    figure = Figure(figsize=(WIDTH, height), layout="constrained")
    for axes, (label, images) in zip(
        figure.subplots(1, len(sets), squeeze=False)[0], sets.items(), strict=True
    ):
        columns = images.unflatten(0, (-1, per_class)).transpose(0, 1).flatten(0, 1)
        _draw_grid(axes, columns, columns=classes)
        axes.set_title(label)
    return figure


def _draw_grid(axes: Axes, images: Tensor, columns: int) -> None:
    grid = make_grid(images.clamp(0, 1), nrow=columns, padding=1, pad_value=1.0)
    axes.imshow(grid.permute(1, 2, 0).numpy(), interpolation="nearest")
    axes.set(xticks=[], yticks=[])
    axes.grid(False)
    sns.despine(ax=axes, left=True, bottom=True)


def _panels(rows: pd.DataFrame, height: float) -> tuple[Figure, list[tuple[Axes, pd.DataFrame]]]:
    """A panel per objective, with its rows and those of the baselines."""
    objectives = list(rows["objective"].dropna().unique()) if "objective" in rows else []
    figure = Figure(figsize=(WIDTH, height), layout="constrained")
    panels = figure.subplots(1, max(1, len(objectives)), sharey=True, squeeze=False)[0]
    if len(objectives) < 2:
        return figure, [(panels[0], rows)]
    for axes, objective in zip(panels, objectives, strict=True):
        axes.set_title(objective.upper())
    parts = [rows[rows["objective"].isin([objective]) | rows["objective"].isna()] for objective in objectives]
    return figure, list(zip(panels, parts, strict=True))


def _methods_beside(axes: Axes, rows: pd.DataFrame, column: str, values: Sequence) -> None:
    """Estimates of the methods beside each other at each value of a column."""
    methods = [method for method in LABELS if method != "full" and method in set(rows["method"])]
    for place, method in enumerate(methods):
        for x, value in enumerate(values):
            part = rows[(rows["method"] == method) & (rows[column] == value)]
            shift = (place - (len(methods) - 1) / 2) * 0.8 / len(methods)
            _estimate(axes, x + shift, part, COLOURS[method], LABELS[method] if x == 0 else None)


def _estimate(
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


def _limit_to_percent(axes: Axes) -> None:
    """An interval may reach beyond what an accuracy can be; the axis does not."""
    low, high = axes.get_ylim()
    axes.set_ylim(max(low, 0), min(high, 101))


def _plain_log_ticks(axis, few: bool = False) -> None:
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


def _finish(figure: Figure) -> Figure:
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


OPACITY = 0.8  # of an activation map where it is 1
DIMMED = 0.6  # brightness of the image below it, so that the map stands out on white too


@matplotlib.rc_context(STYLE)
def distance_and_accuracy_over_steps(history: pd.DataFrame, stages: Sequence[Stage], distance: str) -> Figure:
    """Distance of the measured iterates above their test accuracy, over all steps, a curve per seed.

    Args:
        history: `seed`, `stage`, `step` (within the stage), `distance`, `accuracy`, `selected`; an iterate
            without accuracy is left out below.
        stages: stage table of the runs; every second one is shaded.
        distance: name of the metric.
    """
    figure = Figure(figsize=(WIDTH, 5.2), layout="constrained")
    upper, lower = figure.subplots(2, 1, sharex=True)
    starts = np.cumsum([0, *(stage.steps for stage in stages)])
    _shade_stages(upper, stages, starts)
    _shade_stages(lower, [replace(stage, name="") for stage in stages], starts)
    _seed_curves(upper, history, starts, "distance")
    _seed_curves(lower, history.dropna(subset="accuracy"), starts, "accuracy")
    upper.plot([], [], "o", color="white", label="selected", **SELECTED)
    upper.set_yscale("log")
    _plain_log_ticks(upper.yaxis)
    upper.set(ylabel=metric_label(distance))
    lower.set(xlabel="step", ylabel=ACCURACY, xlim=(0, starts[-1]))
    _limit_to_percent(lower)
    return _finish(figure)


def _seed_curves(axes: Axes, history: pd.DataFrame, starts: np.ndarray, column: str) -> None:
    """A curve per seed over all steps, with a circle at the selected iterate."""
    seeds = sorted(history["seed"].unique())
    for seed, colour in zip(seeds, sns.color_palette("viridis", len(seeds)), strict=True):
        part = history[history["seed"] == seed]
        x, best = starts[part["stage"]] + part["step"], part["selected"]
        axes.plot(x, part[column], color=colour, linewidth=1.3, label=f"seed {seed}")
        axes.plot(x[best], part[column][best], "o", color=colour, clip_on=False, zorder=3, **SELECTED)


@matplotlib.rc_context(STYLE)
def image_changes(rows: dict[str, Tensor], classes: Sequence[str]) -> Figure:
    """What each stage changed: signed difference of consecutive rows, mean over channels, on one scale.

    Args:
        rows: images at the end of each stage (class, channels, height, width), in [0, 1].
        classes: names of the columns.

    Raises:
        HgladError: fewer than two stages.
    """
    if len(rows) < 2:
        raise HgladError(f"changes between {len(rows)} stage: expected the images of 2 stages or more")
    changes = {f"{a}\nto {b}": (rows[b].clamp(0, 1) - rows[a].clamp(0, 1)).mean(1) for a, b in pairwise(rows)}
    limit = max(float(change.abs().max()) for change in changes.values()) or 1.0
    colours = ScalarMappable(Normalize(-limit, limit), "RdBu_r")
    figure = image_rows({name: _coloured(change, colours) for name, change in changes.items()}, classes)
    figure.set_figheight(figure.get_figheight() + 0.5)
    figure.colorbar(
        colours, ax=figure.axes, location="bottom", label="change of brightness", shrink=0.4, aspect=30
    )
    return figure


@matplotlib.rc_context(STYLE)
def activation_overlays(images: dict[str, Tensor], maps: dict[str, Tensor], classes: Sequence[str]) -> Figure:
    """Class-activation maps over dimmed grey images: the more colour, the more evidence for the class.

    Args:
        images: label to images (class, channels, height, width), in [0, 1].
        maps: label to maps (class, height', width'), in [0, 1], as of `activation.activation_maps`.
        classes: names of the columns.
    """
    colours = ScalarMappable(Normalize(0, 1), "autumn")
    return image_rows({label: _overlaid(x, maps[label], colours) for label, x in images.items()}, classes)


def _overlaid(images: Tensor, maps: Tensor, colours: ScalarMappable) -> Tensor:
    """Images (n, 3, height, width): grey where a map is 0, its colour the more the higher it is."""
    grey = DIMMED * images.clamp(0, 1).mean(dim=1, keepdim=True)
    level = interpolate(maps[:, None], grey.shape[-2:], mode="bilinear")  # (n, 1, height, width)
    opacity = OPACITY * level
    return (1 - opacity) * grey + opacity * _coloured(level[:, 0], colours)


def _coloured(values: Tensor, colours: ScalarMappable) -> Tensor:
    """Values (n, height, width) as images (n, 3, height, width)."""
    return torch.from_numpy(colours.cmap(colours.norm(values.numpy()))[..., :3]).float().movedim(-1, 1)


@matplotlib.rc_context(STYLE)
def winning_stages(table: pd.DataFrame, stages: Sequence[Stage]) -> Figure:
    """The stage with the smallest distance, for each run and class.

    Args:
        table: index into `stages`; a row per run, a column per class.
        stages: stage table of the runs.
    """
    cell = (WIDTH - LABEL_WIDTH) / table.shape[1]
    fitting = min(8.0, 110 * cell / max(len(stage.name) for stage in stages))  # points
    figure = Figure(figsize=(WIDTH, 0.3 * len(table) + 0.8), layout="constrained")
    axes = figure.subplots()
    sns.heatmap(
        table,
        ax=axes,
        annot=table.map(lambda stage: stages[stage].name),
        fmt="",
        annot_kws={"fontsize": fitting},
        cmap=sns.color_palette("viridis", len(stages)),
        vmin=-0.5,
        vmax=len(stages) - 0.5,
        cbar=False,
        linewidths=1,
    )
    axes.set(xlabel=table.columns.name or "class", ylabel=table.index.name or "run")
    axes.tick_params(length=0, labelrotation=0)
    return figure
