"""Rows and grids of images, and what is laid over them."""

from collections.abc import Sequence
from itertools import pairwise
from textwrap import fill

import matplotlib
import seaborn as sns
import torch
from matplotlib.axes import Axes
from matplotlib.cm import ScalarMappable
from matplotlib.colors import Normalize
from matplotlib.figure import Figure
from torch import Tensor
from torch.nn.functional import interpolate
from torchvision.utils import make_grid

from hglad.analysis.plots.style import LABEL_WIDTH, STYLE, WIDTH, column_names
from hglad.errors import HgladError

OPACITY = 0.8  # of an activation map where it is 1
DIMMED = 0.6  # brightness of the image below it, so that the map stands out on white too


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
        axes.set_anchor("E")  # what is left over belongs to the labels
    width = images.shape[-1] + 1
    names, fitting = column_names(classes, cell)
    panels[0].set_xticks([(index + 0.5) * width for index in range(len(classes))], names)
    panels[0].tick_params(
        top=True, labeltop=True, bottom=False, labelbottom=False, length=0, labelsize=fitting
    )
    return figure


@matplotlib.rc_context(STYLE)
def image_panels(sets: dict[str, Tensor], per_class: int) -> Figure:
    """One grid per entry, a column per class, of images (n, channels, height, width) sorted by class."""
    classes = len(next(iter(sets.values()))) // per_class
    height = WIDTH / max(2, len(sets)) * per_class / classes + 0.3
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
