"""What the parts of a search change: its variants, its rule of choice, its stages."""

from collections.abc import Sequence
from textwrap import fill

import matplotlib
import numpy as np
import pandas as pd
import seaborn as sns
from matplotlib.figure import Figure

from hglad.analysis.plots.estimates import estimate
from hglad.analysis.plots.style import (
    ACCURACY,
    COLOURS,
    LABEL_WIDTH,
    STYLE,
    WIDTH,
    column_names,
    finish,
    limit_to_percent,
)
from hglad.search.stages import Stage


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
            estimate(axes, x, rows, COLOURS["full"] if x == len(rules) - 1 else COLOURS["hierarchical"])
        axes.set(ylabel=ACCURACY, xlim=(-0.5, len(rules) - 0.5))
        if len(objectives) > 1:
            axes.set_title(objective.upper())
        limit_to_percent(axes)
    width = max(11, 92 // len(rules))  # characters that stand below a rule
    panels[-1].set_xticks(range(len(rules)), [fill(rule, width) for rule in rules], fontsize=8)
    return finish(figure)


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
    names, size = column_names(table.columns, cell)
    axes.set_xticks(axes.get_xticks(), names, fontsize=size)
    axes.tick_params(length=0, labelrotation=0)
    return figure
