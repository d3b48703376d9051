"""What the iterates of a run are worth: distance and accuracy over its steps, and against each other."""

from collections.abc import Sequence
from dataclasses import replace
from itertools import cycle
from textwrap import fill

import matplotlib
import numpy as np
import pandas as pd
import seaborn as sns
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from hglad.analysis.labels import metric_label
from hglad.analysis.plots.style import (
    ACCURACY,
    SELECTED,
    STYLE,
    WIDTH,
    finish,
    limit_to_percent,
    objective_panels,
    plain_log_ticks,
)
from hglad.search.stages import Stage


@matplotlib.rc_context(STYLE)
def distance_over_steps(history: pd.DataFrame, stages: Sequence[Stage], distance: str) -> Figure:
    """Distance of the measured iterates over all steps of hierarchical runs, a curve per seed.

    Args:
        history: `seed`, `stage`, `step` (within the stage), `distance`, `selected`.
        stages: stage table of the runs; every second one is shaded.
        distance: name of the metric.
    """
    figure, ((axes, _),) = objective_panels(history, height=3.4)
    starts = np.cumsum([0, *(stage.steps for stage in stages)])
    _shade_stages(axes, stages, starts)
    _seed_curves(axes, history, starts, "distance")
    axes.plot([], [], "o", color="white", label="selected", **SELECTED)
    axes.set_yscale("log")
    plain_log_ticks(axes.yaxis)
    axes.set(xlabel="step", ylabel=metric_label(distance), xlim=(0, starts[-1]))
    return finish(figure)


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
    plain_log_ticks(upper.yaxis)
    upper.set(ylabel=metric_label(distance))
    lower.set(xlabel="step", ylabel=ACCURACY, xlim=(0, starts[-1]))
    limit_to_percent(lower)
    return finish(figure)


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


def _seed_curves(axes: Axes, history: pd.DataFrame, starts: np.ndarray, column: str) -> None:
    """A curve per seed over all steps, with a circle at the selected iterate."""
    seeds = sorted(history["seed"].unique())
    for seed, colour in zip(seeds, sns.color_palette("viridis", len(seeds)), strict=True):
        part = history[history["seed"] == seed]
        x, best = starts[part["stage"]] + part["step"], part["selected"]
        axes.plot(x, part[column], color=colour, linewidth=1.3, label=f"seed {seed}")
        axes.plot(x[best], part[column][best], "o", color=colour, clip_on=False, zorder=3, **SELECTED)


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
        plain_log_ticks(axes.xaxis, few=True)
        axes.set(xlabel=fill(metric_label(metric), 34))
    for axes in panels[len(metrics) :]:
        axes.set_visible(False)
    for axes in panels[::columns]:
        axes.set_ylabel(ACCURACY)
    objectives = list(dict.fromkeys(distances["objective"]))
    for objective, marker in zip(objectives, "o^sDvP", strict=False) if len(objectives) > 1 else ():
        panels[0].plot([], [], marker, color="#777777", label=objective.upper())
    for name, colour in zip(layers, colours, strict=True):
        panels[0].plot([], [], "o", color=colour, label=name)
    return finish(figure)
