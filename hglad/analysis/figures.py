"""Every figure of the book: tidy rows in, a figure out, and the figure with its numbers on a page.

Figures are made without pyplot and its global state, so the same rows give the same bytes. A method has the
same color everywhere; dots are distillation seeds, a diamond is their mean, a bar its 95 % t interval.
"""

import base64
import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import wraps
from itertools import pairwise
from textwrap import fill

import matplotlib
import numpy as np
import pandas as pd
import PIL.Image
import seaborn as sns
import torch
from IPython.display import Image, display
from matplotlib.axes import Axes
from matplotlib.cm import ScalarMappable
from matplotlib.colors import Normalize
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from matplotlib.ticker import FuncFormatter, LogLocator, MaxNLocator, NullLocator
from torch import Tensor
from torch.nn.functional import interpolate
from torchvision.utils import make_grid

from hglad.analysis import LABELS, metric_label
from hglad.analysis.statistics import t_interval
from hglad.errors import HgladError

# Colors of Okabe & Ito (2008), told apart with any color vision
COLORS = {
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
VERDICTS = {"holds": "#009E73", "open": "#888888", "fails": "#D55E00", "too few seeds": "#cccccc"}
ACCURACY = "test accuracy (%)"
WIDTH = 7.2  # inches
LABEL_WIDTH = 1.2  # inches for the labels of image rows
DPI = 130
LARGE = 2**17  # bytes of a PNG; photographs do not compress, and a page has many
SELECTED = {"marker": "o", "linestyle": "", "markeredgecolor": "black", "markersize": 7}
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


def styled(draw):
    """The decorated figure in the style of all of them, which leaves that of others alone."""
    return wraps(draw)(matplotlib.rc_context(STYLE)(draw))


# On a page


@dataclass(frozen=True)
class Downloads:
    """Links below a figure: the picture itself, which the page already has, and its numbers."""

    name: str
    csv: str

    def _repr_html_(self) -> str:
        numbers = base64.b64encode(self.csv.encode()).decode()
        shown = "this.href = this.closest('.cell_output').querySelector('img').src"
        return (
            '<p class="downloads" style="text-align: right; font-size: 85%">Download: '
            f'<a href="#" download="{self.name}.png" onclick="{shown}">figure</a> · '
            f'<a href="data:text/csv;base64,{numbers}" download="{self.name}.csv">its numbers (CSV)</a></p>'
        )

    def __repr__(self) -> str:
        return f"{self.name}: {self.csv.count(chr(10)) - 1} rows"


def show(figure: Figure, numbers: pd.DataFrame | None = None, name: str = "figure") -> Image | Downloads:
    """A figure as PNG, without date and version, so that equal figures are equal bytes.

    Args:
        figure: what is shown.
        numbers: what it is drawn from; with them, links to both are below: six digits each, without empty
            columns, keys of results and whole cards.
        name: of the files that the links give.
    """
    image = Image(as_png(figure))
    if numbers is None:
        return image
    display(image)
    numbers = numbers.drop(columns=["key", "card", "settings"], errors="ignore").dropna(
        axis="columns", how="all"
    )
    return Downloads(name, numbers.to_csv(index=False, float_format="%.6g", lineterminator="\n"))


def as_png(figure: Figure) -> bytes:
    """Pixels, `DPI` to the inch; those of large pictures in 256 colors, which look the same."""
    buffer, few = io.BytesIO(), io.BytesIO()
    figure.savefig(buffer, dpi=DPI, format="png", metadata={"Software": None})
    if buffer.tell() <= LARGE:
        return buffer.getvalue()
    image = PIL.Image.open(buffer).convert("RGB")
    palette = image.quantize(256, PIL.Image.Quantize.MEDIANCUT, kmeans=3, dither=PIL.Image.Dither.NONE)
    palette.save(few, "PNG", optimize=True)
    return few.getvalue()


# Accuracies


@styled
def accuracy(rows: pd.DataFrame, columns: str = "ipc") -> Figure:
    """Accuracy of each method at each ipc or on each network, a panel per objective; the full set is dashed.

    Args:
        rows: result rows, with one layer for the single-layer search.
        columns: "ipc", of one network, or "network", of one ipc, in the order of the rows.
    """
    objectives, by_ipc = list(rows["objective"].dropna().unique()), columns == "ipc"
    values = sorted(rows["ipc"].dropna().unique()) if by_ipc else list(dict.fromkeys(rows["network"]))
    figure, panels = _panels(objectives, 3.4 if by_ipc or len(objectives) < 2 else 2.6, stacked=not by_ipc)
    for axes, objective in panels:
        own = rows[rows["objective"].isin([objective]) | rows["objective"].isna()]
        methods = [name for name in LABELS if name != "full" and name in set(own["method"])]
        for place, method in enumerate(methods):
            shift = (place - (len(methods) - 1) / 2) * 0.8 / len(methods)
            for x, value in enumerate(values):
                part = own[(own["method"] == method) & (own[columns] == value)]
                _estimate(axes, x + shift, part, COLORS[method], LABELS[method] if x == 0 else None)
        axes.set_xticks(range(len(values)), [f"{value:g}" if by_ipc else value for value in values])
        axes.set(ylabel=ACCURACY, xlim=(-0.5, len(values) - 0.5))
        axes.set_xlabel("images per class (ipc)" if by_ipc else "")
    full = rows[rows["method"] == "full"].groupby("network")["accuracy"].mean()
    names = full.index if by_ipc else values
    _mark_full_set([axes for axes, _ in panels], [full.get(name) for name in names])
    return _finish(figure)


@styled
def layer_sweeps(sweep: pd.DataFrame, chosen: int | None = None) -> Figure:
    """Accuracy against the split layer that a search is confined to, a panel per generator, on one scale.

    Args:
        sweep: as `frame.sweep` gives it.
        chosen: the layer of GLaD in the profile, shaded.
    """
    names = list(dict.fromkeys(sweep["generator"]))
    figure = Figure(figsize=(WIDTH, 3.2 if len(names) == 1 else 2.7 * len(names)), layout="constrained")
    grid = figure.subplots(len(names), 1, squeeze=False, sharey=True)[:, 0]
    for axes, generator in zip(grid, names, strict=True):
        own, means = sweep[sweep["generator"] == generator].sort_values("layer"), {}
        for method in ("single", "pixels"):
            label = LABELS[method]
            for layer, part in own[own["method"] == method].groupby("layer"):
                means[layer] = _estimate(axes, layer, part, COLORS[method], label, spread=0.15)
                label = None
        if chosen is not None:
            axes.axvspan(chosen - 0.4, chosen + 0.4, color="#f3e9d2", zorder=0, label="layer of the profile")
        axes.plot(list(means), list(means.values()), color="#999999", linewidth=1, zorder=1)
        axes.set_xticks(list(means), list(dict.fromkeys(own["split_point"])))
        axes.set(xlabel="split layer of the search", ylabel=ACCURACY)
        axes.set_title(generator if len(names) > 1 else "", loc="left")
    return _finish(figure)


def _estimate(
    axes: Axes, x: float, rows: pd.DataFrame, color: str, label: str | None = None, spread: float = 0.05
) -> float:
    """Dots of the seeds, their mean and its interval; returns the mean."""
    if rows.empty:
        return float("nan")
    seeds = rows.groupby("seed")["accuracy"].mean().to_numpy()
    interval, mean = t_interval(seeds), seeds.mean()
    ends = np.clip([interval["low"], interval["high"]], 0, 100)
    places = x + (np.linspace(-spread, spread, len(seeds)) if len(seeds) > 1 else np.zeros(1))
    axes.plot(places, seeds, "o", color=color, alpha=0.45, markersize=4, markeredgewidth=0)
    look = {"fmt": "D", "markersize": 6, "markeredgecolor": "white", "capsize": 4}
    error = np.nan_to_num(np.abs(ends - mean))[:, None]
    axes.errorbar(x, mean, yerr=error, color=color, label=label, **look)
    return mean


def _mark_full_set(panels: Sequence[Axes], means: Sequence[float | None]) -> None:
    """Dashes at accuracies of the full set; numbers where dashes would squeeze all else together.

    Args:
        panels: axes of one scale, with everything else drawn.
        means: in percent, for each group of marks; one for all of them where there is one.
    """
    ends = np.array([axes.dataLim.intervaly for axes in panels])
    low, high = ends.min(), ends.max()
    found = {place: mean for place, mean in enumerate(means) if mean is not None}
    far = max(found.values(), default=0) > high + (high - low)
    for axes in panels:
        for place, mean in found.items():
            start, end = axes.get_xlim() if len(means) == 1 else (place - 0.4, place + 0.4)
            if far:
                box = {"facecolor": "white", "edgecolor": "none", "pad": 1}
                look = {"ha": "center", "va": "top", "fontsize": "small", "bbox": box}
                where = axes.get_xaxis_transform()
                axes.text((start + end) / 2, 0.98, f"{LABELS['full']}: {mean:.1f} ↑", transform=where, **look)
            else:
                label = LABELS["full"] if place == min(found) else None  # once in the legend
                axes.hlines(mean, start, end, COLORS["full"], "--", linewidth=1, label=label)
    if far:
        panels[0].set_ylim(top=high + 0.2 * (high - low))  # room above the marks


# Searches


@styled
def over_steps(
    history: pd.DataFrame, stages: Sequence[Mapping], distance: str, columns=("distance",)
) -> Figure:
    """Distance of the measured iterates over the steps of hierarchical runs, a curve per seed.

    Args:
        history: as `frame.history` gives it.
        stages: stage table of the runs; every second one is shaded.
        distance: name of the metric.
        columns: below each other, "distance" and "accuracy".
    """
    figure = Figure(figsize=(WIDTH, 0.8 + 2.5 * len(columns)), layout="constrained")
    panels = figure.subplots(len(columns), 1, sharex=True, squeeze=False)[:, 0]
    starts, seeds = np.cumsum([0, *(stage["steps"] for stage in stages)]), sorted(history["seed"].unique())
    narrow = min(stage["steps"] for stage in stages) < 0.1 * starts[-1]  # their names would meet
    turned = {"rotation": 35, "ha": "left"} if narrow else {"ha": "center"}
    for index, (stage, span) in enumerate(zip(stages, pairwise(starts), strict=True)):
        for axes in panels if index % 2 == 0 else ():
            axes.axvspan(*span, color="#f0f0f0", zorder=0, linewidth=0)
        place = {"xycoords": ("data", "axes fraction"), "va": "bottom", "fontsize": 8}
        panels[0].annotate(stage["name"], (sum(span) / 2, 1.01), **place, **turned)
    for axes, column in zip(panels, columns, strict=True):
        for seed, color in zip(seeds, sns.color_palette("viridis", len(seeds)), strict=True):
            own = history[history["seed"] == seed].dropna(subset=column)
            axes.plot(own["at"], own[column], color=color, linewidth=1.3, label=f"seed {seed}")
            best = own[own["selected"]]
            axes.plot(best["at"], best[column], color=color, clip_on=False, zorder=3, **SELECTED)
        axes.set_ylabel(ACCURACY)
    panels[0].plot([], [], color="white", label="selected", **SELECTED)
    panels[0].set_yscale("log")
    _log_ticks(panels[0].yaxis)
    panels[0].set_ylabel(metric_label(distance))
    panels[-1].set(xlabel="step", xlim=(0, starts[-1]))
    return _finish(figure)


@styled
def distance_and_accuracy(distances: pd.DataFrame, metrics: Sequence[str]) -> Figure:
    """Accuracy of every iterate against its distance, a panel per metric; color: layer, shape: objective.

    Args:
        distances: as `frame.distances` gives them.
        metrics: columns with distances.
    """
    lines = -(-len(metrics) // 3)
    columns = -(-len(metrics) // lines)
    figure = Figure(figsize=(WIDTH, 0.7 + 2.4 * lines), layout="constrained")
    panels = figure.subplots(lines, columns, sharey=True, squeeze=False).flatten()
    distances = distances.sort_values("layer", kind="stable").assign(
        objective=distances["objective"].str.upper()
    )
    style = {"style": "objective"} if distances["objective"].nunique() > 1 else {}
    look = {"hue": "stage_name", "palette": "viridis", "s": 22, "linewidth": 0} | style
    for axes, metric in zip(panels, metrics, strict=False):
        sns.scatterplot(distances, x=metric, y="accuracy", ax=axes, legend=axes is panels[0], **look)
        axes.set_xscale("log")
        _log_ticks(axes.xaxis, few=True)
        axes.set(xlabel=fill(metric_label(metric), 34), ylabel=ACCURACY)
    for axes in panels[len(metrics) :]:
        axes.set_visible(False)
    panels[0].get_legend().remove()
    return _finish(figure)


@styled
def chosen_accuracy(choices: pd.DataFrame) -> Figure:
    """Accuracy of the iterate that each rule picks, a panel per objective; a thin line joins each run.

    Args:
        choices: as `claims.choices` gives them, rules in the order of the axis.
    """
    rules, objectives = (list(dict.fromkeys(choices[key])) for key in ("rule", "objective"))
    figure, panels = _panels(objectives, 2.4, stacked=True, extra=0.8, share=False)
    for axes, objective in panels:
        own = choices[choices["objective"] == objective]
        for _, run in own.groupby("seed"):
            axes.plot(
                [rules.index(rule) for rule in run["rule"]], run["accuracy"], color="#bbbbbb", linewidth=0.8
            )
        for x, rule in enumerate(rules):
            color = COLORS["full" if x == len(rules) - 1 else "hierarchical"]
            _estimate(axes, x, own[own["rule"] == rule], color)
        axes.set(ylabel=ACCURACY, xlim=(-0.5, len(rules) - 0.5))
    width = max(11, 92 // len(rules))  # characters that stand below a rule
    panels[-1][0].set_xticks(range(len(rules)), [fill(rule, width) for rule in rules], fontsize=8)
    return _finish(figure)


@styled
def differences(found: pd.DataFrame, line: str, panel: str) -> Figure:
    """Differences in accuracy with their 95 % intervals, a panel below the other; the color is the verdict.

    Args:
        found: `mean`, `low`, `high` in points, `verdict` where there is one.
        line: column that names the lines of a panel.
        panel: column that names the panels.
    """
    found = found.dropna(subset="mean")
    titles = list(dict.fromkeys(found[panel]))
    counts = [int((found[panel] == title).sum()) for title in titles]
    figure = Figure(figsize=(WIDTH, 0.6 + sum(0.45 + 0.27 * count for count in counts)), layout="constrained")
    panels = figure.subplots(len(titles), 1, sharex=True, squeeze=False, height_ratios=counts)[:, 0]
    verdicts = found.get("verdict", pd.Series("holds", found.index))
    for axes, title in zip(panels, titles, strict=True):
        own = found[found[panel] == title]
        axes.axvline(0, color="#555555", linewidth=1)
        for y, (index, row) in enumerate(own.iterrows()):
            half = np.nan_to_num(row["high"] - row["mean"])
            axes.errorbar(
                row["mean"], y, xerr=half, fmt="D", markersize=5, capsize=3, color=VERDICTS[verdicts[index]]
            )
        _name_rows(axes, list(own[line]), "")
        axes.set_title(title.upper() if panel == "objective" else title)
    panels[-1].set_xlabel("points of test accuracy")
    for verdict in VERDICTS if "verdict" in found else ():
        if (verdicts == verdict).any():
            panels[0].plot([], [], "D", color=VERDICTS[verdict], label=verdict)
    return _finish(figure)


@styled
def heat_map(
    table: pd.DataFrame, label: str = "", colors: str = "Blues", framed: Sequence[int] = (), names=()
) -> Figure:
    """A table as colors: shares in percent with their number, or `names` in the order of their colors.

    Args:
        table: a row per method or run, a column per class.
        label: what the numbers are.
        colors: color map of the numbers.
        framed: column to frame in each row.
        names: what the cells hold where they are no numbers.
    """
    cell = (WIDTH - LABEL_WIDTH) / table.shape[1]
    figure = Figure(figsize=(WIDTH, 0.85 + 0.34 * len(table)), layout="constrained")
    axes = figure.subplots()
    if names:
        size = min(8.0, 110 * cell / max(map(len, names)))  # points that fit the cell
        look = {"annot": table, "fmt": "", "annot_kws": {"fontsize": size}, "cbar": False}
        look |= {"cmap": sns.color_palette("viridis", len(names)), "vmin": -0.5, "vmax": len(names) - 0.5}
        table = table.map(names.index)
    else:
        cell *= 0.85  # beside the color bar
        look = {
            "annot": True,
            "fmt": ".0f",
            "cmap": colors,
            "vmin": 0,
            "vmax": 100,
            "cbar_kws": {"label": label},
        }
    sns.heatmap(table, ax=axes, linewidths=1, **look)
    for y, column in enumerate(framed):
        axes.add_patch(Rectangle((column, y), 1, 1, fill=False, edgecolor="#D55E00", linewidth=2))
    columns, size = _column_names(table.columns, cell)
    axes.set_xticks(np.arange(len(columns)) + 0.5, columns, fontsize=size, rotation=0)
    axes.tick_params(length=0)
    axes.tick_params(axis="y", rotation=0)
    axes.set_ylabel("")
    return figure


# Images


@styled
def image_rows(rows: Mapping[str, Tensor], classes: Sequence[str]) -> Figure:
    """A labeled row of images (class, channels, height, width), in [0, 1], per entry; columns: classes."""
    cell = min(0.62, (WIDTH - LABEL_WIDTH) / len(classes))
    size = (LABEL_WIDTH + cell * len(classes), cell * 1.12 * len(rows) + 0.3)
    figure = Figure(figsize=size, layout="constrained")
    panels = figure.subplots(len(rows), 1, squeeze=False)[:, 0]
    for axes, (label, images) in zip(panels, rows.items(), strict=True):
        _draw_grid(axes, images, columns=len(images))
        lines = [fill(line, 14) for line in label.split("\n")]
        axes.set_ylabel("\n".join(lines), rotation=0, ha="right", va="center")
        axes.set_anchor("E")  # what is left over belongs to the labels
    names, fitting = _column_names(classes, cell)
    panels[0].set_xticks([(index + 0.5) * (images.shape[-1] + 1) for index in range(len(classes))], names)
    place = {"top": True, "labeltop": True, "bottom": False, "labelbottom": False}
    panels[0].tick_params(**place, length=0, labelsize=fitting)
    return figure


@styled
def image_panels(sets: Mapping[str, Tensor], per_class: int) -> Figure:
    """One grid per entry, a column per class, of images (n, channels, height, width) sorted by class."""
    classes = len(next(iter(sets.values()))) // per_class
    height = WIDTH / max(2, len(sets)) * per_class / classes + 0.3
    figure = Figure(figsize=(WIDTH, height), layout="constrained")
    panels = figure.subplots(1, len(sets), squeeze=False)[0]
    for axes, (label, images) in zip(panels, sets.items(), strict=True):
        _draw_grid(axes, images.unflatten(0, (-1, per_class)).transpose(0, 1).flatten(0, 1), columns=classes)
        axes.set_title(label)
    return figure


def image_changes(rows: Mapping[str, Tensor], classes: Sequence[str]) -> Figure:
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
    colors = ScalarMappable(Normalize(-limit, limit), "RdBu_r")
    figure = image_rows({name: _colored(change, colors) for name, change in changes.items()}, classes)
    figure.set_figheight(figure.get_figheight() + 0.5)
    place = {"location": "bottom", "shrink": 0.4, "aspect": 30}
    figure.colorbar(colors, ax=figure.axes, label="change of brightness", **place)
    return figure


def activation_overlays(
    images: Mapping[str, Tensor], maps: Mapping[str, Tensor], classes: Sequence[str]
) -> Figure:
    """Class-activation maps over dimmed gray images: the more color, the more evidence for the class.

    Args:
        images: label to images (class, channels, height, width), in [0, 1].
        maps: label to maps (class, height', width'), in [0, 1], as of `activation_maps`.
        classes: names of the columns.
    """
    colors, rows = ScalarMappable(Normalize(0, 1), "autumn"), {}
    for label, own in images.items():
        gray = 0.6 * own.clamp(0, 1).mean(
            dim=1, keepdim=True
        )  # dimmed, so that the map stands out on white too
        level = interpolate(maps[label][:, None], gray.shape[-2:], mode="bilinear")  # (n, 1, height, width)
        rows[label] = (1 - 0.8 * level) * gray + 0.8 * level * _colored(level[:, 0], colors)
    return image_rows(rows, classes)


@torch.enable_grad()
def activation_maps(classifier, images: Tensor, labels: Tensor, normalize) -> Tensor:
    """Grad-CAM map A_c of each image for its class, scaled to a maximum of 1 (Selvaraju et al. 2017).

    Args:
        classifier: trained network; is put into evaluation mode.
        images: (n, ch, h, w) in [0, 1].
        labels: class of each image (n,).
        normalize: turns images into the network's input, such as `RealData.normalize`.

    Returns:
        (n, h', w') at the size of the network's last feature maps; 0 everywhere where nothing in the image
        speaks for the class.

    Raises:
        HgladError: images with other channels than `normalize` expects.
    """
    inputs = normalize(images.detach().requires_grad_())  # so that a frozen network has a graph as well
    maps, embedding = classifier.eval().maps_and_embedding(inputs)  # (n, K, h', w'), (n, features)
    logits = classifier.classifier(embedding).gather(1, labels[:, None])
    (gradient,) = torch.autograd.grad(logits.sum(), maps)
    weights = gradient.mean(dim=(2, 3))  # alpha_c (n, K)
    activation = torch.einsum("nk,nkhw->nhw", weights, maps).relu().detach()
    return activation / activation.amax(dim=(1, 2), keepdim=True).clamp(min=1e-12)


def _colored(values: Tensor, colors: ScalarMappable) -> Tensor:
    """Values (n, height, width) as images (n, 3, height, width)."""
    return torch.from_numpy(colors.cmap(colors.norm(values.numpy()))[..., :3]).float().movedim(-1, 1)


def _draw_grid(axes: Axes, images: Tensor, columns: int) -> None:
    grid = make_grid(images.clamp(0, 1), nrow=columns, padding=1, pad_value=1.0)
    axes.imshow(grid.permute(1, 2, 0).numpy(), interpolation="nearest")
    axes.set(xticks=[], yticks=[])
    axes.grid(False)
    sns.despine(ax=axes, left=True, bottom=True)


# Panels, names, ticks


def _panels(
    objectives: Sequence[str], height: float, stacked: bool = False, extra: float = 0, share: bool = True
) -> tuple[Figure, list[tuple[Axes, str | None]]]:
    """A panel of `height` inches per objective, beside each other or one below the other."""
    names = objectives or [None]
    grid = (len(names), 1) if stacked else (1, len(names))
    figure = Figure(figsize=(WIDTH, extra + height * grid[0]), layout="constrained")
    panels = figure.subplots(*grid, sharex=stacked, sharey=share, squeeze=False).flatten()
    for axes, name in zip(panels, names if len(names) > 1 else (), strict=False):
        axes.set_title(name.upper())
    return figure, list(zip(panels, names, strict=True))


def _name_rows(axes: Axes, names: Sequence[str], label: str) -> None:
    """Lines from top to bottom with their names, values on the horizontal axis."""
    axes.set_yticks(range(len(names)), [fill(name, 50) for name in names])
    axes.set(ylim=(len(names) - 0.5, -0.5), xlabel=label)
    axes.grid(axis="x")
    axes.grid(axis="y", visible=False)


def _column_names(names: Sequence[object], column: float) -> tuple[list[str], float]:
    """Names on lines of few letters, and the points at which they do not meet on columns of these inches."""
    lines = [fill(str(name), 10, break_long_words=False) for name in names]
    longest = max(len(line) for name in lines for line in name.split("\n"))
    return lines, min(9.0, 100 * column / longest)


def _log_ticks(axis, few: bool = False) -> None:
    """Ticks at 0.2, 0.5, 1, ... on a logarithmic axis, closer ones where it spans little; `few` if narrow."""
    low, high = axis.get_view_interval()
    steps = (1, 2, 5) if high > 8 * low else range(1, 10) if high > 2 * low else np.arange(1, 10, 0.5)
    narrow = LogLocator(subs=(1, 3)) if high > 8 * low else MaxNLocator(3)
    axis.set_major_locator(narrow if few else LogLocator(subs=steps))
    axis.set_minor_locator(NullLocator())
    axis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))


def _finish(figure: Figure) -> Figure:
    """With one legend below, the full set last in it, and without the upper and right edges."""
    entries = zip(*figure.axes[0].get_legend_handles_labels(), strict=True)
    titles = {"stage_name", "objective"}  # seaborn's, of groups of entries
    entries = sorted((e for e in entries if e[1] not in titles), key=lambda entry: entry[1] == LABELS["full"])
    if entries:
        handles, labels = zip(*entries, strict=True)
        columns = len(labels) if len(labels) <= 6 else (len(labels) + 1) // 2
        figure.legend(handles, labels, loc="outside lower center", ncols=columns)
    sns.despine(figure)
    return figure
