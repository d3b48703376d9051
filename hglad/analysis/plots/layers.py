"""Accuracy against the split layer that a search is confined to."""

from collections.abc import Mapping, Sequence

import matplotlib
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from hglad.analysis.labels import LABELS
from hglad.analysis.plots.estimates import estimate
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
def layer_sweep(rows: pd.DataFrame, names: Sequence[str], chosen: int) -> Figure:
    """Accuracy against the split layer that the search is confined to.

    Args:
        rows: result rows; `layer` is an index into `names`, also for the pixels.
        names: split layers, pixel space last.
        chosen: the layer of GLaD in the profile, shaded.
    """
    figure, ((axes, _),) = objective_panels(rows, height=3.2)
    axes.axvspan(chosen - 0.4, chosen + 0.4, color="#f3e9d2", zorder=0, label="layer of the profile")
    _sweep(axes, rows, names)
    return finish(figure)


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
    return finish(figure)


def _sweep(axes: Axes, rows: pd.DataFrame, names: Sequence[str]) -> None:
    means = []
    for layer in range(len(names)):
        method = "pixels" if layer == len(names) - 1 else "single"
        label = LABELS[method] if layer in (rows["layer"].min(), len(names) - 1) else None
        part = rows[rows["layer"] == layer]
        means.append(estimate(axes, layer, part, COLOURS[method], label, spread=0.15))
    axes.plot(range(len(names)), means, color="#999999", linewidth=1, zorder=1)
    axes.set_xticks(range(len(names)), names)
    axes.set(xlabel="split layer of the search", ylabel=ACCURACY)
    limit_to_percent(axes)
