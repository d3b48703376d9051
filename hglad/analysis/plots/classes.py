"""Which classes the networks get wrong."""

from collections.abc import Mapping, Sequence

import matplotlib
import numpy as np
import pandas as pd
import seaborn as sns
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle

from hglad.analysis.plots.style import STYLE, WIDTH


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
