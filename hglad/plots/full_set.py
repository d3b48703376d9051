"""What networks reach on the full training set, beside what they reach on small sets."""

from matplotlib.axes import Axes

from hglad.labels import LABELS
from hglad.plots.style import COLOURS

LINE = {"colors": COLOURS["full"], "linestyles": "--", "linewidths": 1}
TEXT = {"fontsize": "small", "color": COLOURS["full"], "va": "top"}


def mark_full_set(axes: Axes, means: dict[float | None, float], along: str = "y") -> None:
    """Dashed lines at accuracies of the full set; numbers where lines would squeeze all else together.

    Args:
        axes: with everything else drawn.
        means: by the place of the group that it is beside, or under None for all of the axes; in percent.
        along: axis of the accuracies, "y" or "x".
    """
    low, high = getattr(axes.dataLim, f"interval{along}")
    if max(means.values(), default=0) > high + (high - low):
        _as_text(axes, means, along, high + 0.2 * (high - low))
        return
    name = LABELS["full"]
    for place, mean in means.items():
        if place is None and along == "x":
            axes.axvline(mean, color=COLOURS["full"], linestyle="--", linewidth=1, label=name)
        elif place is None:
            axes.axhline(mean, color=COLOURS["full"], linestyle="--", linewidth=1, label=name)
        else:
            axes.hlines(mean, place - 0.4, place + 0.4, **LINE, label=name)
        name = None  # once in the legend


def _as_text(axes: Axes, means: dict[float | None, float], along: str, top: float) -> None:
    if along == "y":
        axes.set_ylim(top=top)  # room above the marks
    for place, mean in means.items():
        text = f"{LABELS['full']}: {mean:.1f} {'↑' if along == 'y' else '→'}"
        if place is None:
            axes.text(0.99, 0.98, text, transform=axes.transAxes, ha="right", **TEXT)
        else:
            axes.text(place, 0.98, text, transform=axes.get_xaxis_transform(), ha="center", **TEXT)
