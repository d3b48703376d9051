"""What networks reach on the full training set, beside what they reach on small sets."""

from matplotlib.axes import Axes

from hglad.analysis.labels import LABELS
from hglad.analysis.plots.style import COLOURS

LINE = {"colors": COLOURS["full"], "linestyles": "--", "linewidths": 1}
NO_GRID = {"facecolor": "white", "edgecolor": "none", "pad": 1}
TEXT = {"fontsize": "small", "color": COLOURS["full"], "va": "top", "bbox": NO_GRID}
Means = dict[float | None, float]


def mark_full_set(panels: list[tuple[Axes, Means]], along: str = "y") -> None:
    """Dashed lines at accuracies of the full set; numbers where lines would squeeze all else together.

    Args:
        panels: axes of one scale, with everything else drawn, and the accuracies in percent: by the place of
            the group that each is beside, or under None for all of the axes.
        along: axis of the accuracies, "y" or "x".
    """
    ends = [getattr(axes.dataLim, f"interval{along}") for axes, _ in panels]
    low, high = min(end[0] for end in ends), max(end[1] for end in ends)
    far = max((mean for _, means in panels for mean in means.values()), default=0) > high + (high - low)
    for axes, means in panels:
        if far:
            _as_text(axes, means, along)
        else:
            _as_lines(axes, means, along)
    if far and along == "y":
        panels[0][0].set_ylim(top=high + 0.2 * (high - low))  # room above the marks


def _as_lines(axes: Axes, means: Means, along: str) -> None:
    name = LABELS["full"]
    for place, mean in means.items():
        if place is None:
            draw = axes.axvline if along == "x" else axes.axhline
            draw(mean, color=COLOURS["full"], linestyle="--", linewidth=1, label=name)
        else:
            axes.hlines(mean, place - 0.4, place + 0.4, **LINE, label=name)
        name = None  # once in the legend


def _as_text(axes: Axes, means: Means, along: str) -> None:
    for place, mean in means.items():
        text = f"{LABELS['full']}: {mean:.1f} {'↑' if along == 'y' else '→'}"
        if place is None:
            axes.text(0.99, 0.98, text, transform=axes.transAxes, ha="right", **TEXT)
        else:
            axes.text(place, 0.98, text, transform=axes.get_xaxis_transform(), ha="center", **TEXT)
