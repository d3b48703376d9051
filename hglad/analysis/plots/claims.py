"""Estimates behind the claims of the paper, with their intervals."""

import matplotlib
import numpy as np
import pandas as pd
import seaborn as sns
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from hglad.analysis.plots.style import COLOURS, STYLE, WIDTH

VERDICTS = {"holds": COLOURS["hierarchical"], "open": "#888888", "fails": COLOURS["k_center"]}


@matplotlib.rc_context(STYLE)
def accuracy_findings(findings: pd.DataFrame) -> Figure:
    """Differences in accuracy with 95 % intervals, a panel per claim; the colour is the verdict.

    Args:
        findings: those in points, as `hglad.analysis.claims` gives them.
    """
    claims = list(dict.fromkeys(findings["claim"]))
    counts = [int((findings["claim"] == claim).sum()) for claim in claims]
    figure = Figure(figsize=(WIDTH, 0.6 + sum(0.45 + 0.27 * count for count in counts)), layout="constrained")
    panels = figure.subplots(len(claims), 1, sharex=True, squeeze=False, height_ratios=counts)[:, 0]
    for axes, claim in zip(panels, claims, strict=True):
        part = findings[findings["claim"] == claim]
        axes.axvline(0, color="#555555", linewidth=1)
        for y, (_, row) in enumerate(part.iterrows()):
            half = np.nan_to_num(row["high"] - row["mean"])
            marks = {"fmt": "D", "markersize": 5, "capsize": 3, "color": VERDICTS[row["verdict"]]}
            axes.errorbar(row["mean"], y, xerr=half, **marks)
        names = [
            f"{r['objective'].upper()}, ipc {r['ipc']:.0f}: {r['comparison']}" for _, r in part.iterrows()
        ]
        axes.set_yticks(range(len(part)), names)
        axes.set(title=claim, ylim=(len(part) - 0.5, -0.5))
        axes.grid(axis="x")
        axes.grid(axis="y", visible=False)
    panels[-1].set_xlabel("points of test accuracy")
    handles = [
        Line2D([], [], color=colour, marker="D", linestyle="", markersize=5, label=verdict)
        for verdict, colour in VERDICTS.items()
    ]
    figure.legend(handles=handles, loc="outside lower center", ncols=len(handles), title="the claim")
    sns.despine(figure)
    return figure
