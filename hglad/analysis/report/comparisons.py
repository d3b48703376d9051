"""Paired differences between methods, and what their intervals say."""

from collections.abc import Iterable, Sequence

import numpy as np
import pandas as pd

from hglad.analysis.labels import method_label
from hglad.analysis.laboratory import Laboratory
from hglad.analysis.report.accuracy import usual_rows
from hglad.analysis.report.show import Sentences, Table
from hglad.analysis.report.texts import NONE, interval_text, signed
from hglad.analysis.statistics import paired


def differences(rows: pd.DataFrame, pairs: Iterable[tuple[str, str]]) -> pd.DataFrame:
    """Paired differences in accuracy, by objective and ipc; a pair without results is left out.

    Args:
        rows: result rows of one network.
        pairs: first and second method; the difference is first - second.

    Returns:
        `objective`, `ipc`, `first`, `second`, and the columns of `results.paired`.
    """
    parts = []
    for objective in rows["objective"].dropna().unique():
        part = rows[rows["objective"].isin([objective]) | rows["objective"].isna()]
        for first, second in pairs:
            if {first, second} <= set(part["method"]):
                table = paired(part, first, second, ["ipc"])
                parts.append(table.assign(objective=objective, first=first, second=second))
    return pd.concat(parts, ignore_index=True).sort_values("ipc", kind="stable")


def difference_table(table: pd.DataFrame) -> Table:
    """Paired differences with their interval, in points of accuracy, and their effect size.

    The effect size is the mean difference over the deviation of the differences, after Hedges' correction.
    """
    cells = {
        "ipc": table["ipc"].map("{:.0f}".format),
        "difference": [_comparison(row) for _, row in table.iterrows()],
        "mean (points)": table["mean"].map(signed),
        "95 % interval": [interval_text(row) for _, row in table.iterrows()],
        "effect size": [signed(value) if np.isfinite(value) else NONE for value in table["effect"]],
        "seeds": table["seeds"],
    }
    if table["objective"].nunique() > 1:
        cells = {"objective": table["objective"].str.upper()} | cells
    return Table(pd.DataFrame(cells))


def verdicts(table: pd.DataFrame) -> Sentences:
    """The paired differences by what their intervals say; their numbers are in `difference_table`."""
    many = table["objective"].nunique() > 1
    groups = {text: [] for text in _VERDICTS.values()}
    for _, row in table.iterrows():
        setting = f"{row['objective'].upper()}, ipc {row['ipc']:.0f}" if many else f"ipc {row['ipc']:.0f}"
        groups[_VERDICTS[_side(row)]].append(f"{_comparison(row)} ({setting})")
    return Sentences(tuple(f"{text}: {'; '.join(names)}." for text, names in groups.items() if names))


_VERDICTS = {
    "above": "Above 0, the first is more accurate",
    "below": "Below 0, the second is more accurate",
    "around": "Around 0, not told apart with these seeds",
    "none": "One seed, no interval",
}


def _side(estimate: pd.Series) -> str:
    """On which side of 0 an interval lies."""
    if estimate["seeds"] < 2:
        return "none"
    if estimate["low"] > 0:
        return "above"
    return "below" if estimate["high"] < 0 else "around"


def verdict(name: str, estimate: pd.Series) -> str:
    """What an interval for a difference says.

    Args:
        name: what is estimated.
        estimate: `mean`, `low`, `high` and `seeds`.
    """
    text = f"{name} = {signed(estimate['mean'])} points"
    side = _side(estimate)
    if side == "none":
        return f"{text}; one seed, no interval."
    found = "includes 0: not told apart with these seeds" if side == "around" else "excludes 0"
    return f"{text}; the 95 % interval ({interval_text(estimate)}) {found}."


def _comparison(row: pd.Series) -> str:
    return f"{method_label(row['first'])} − {method_label(row['second'])}"


def searches_against(laboratory: Laboratory, baselines: Sequence[str]) -> Table | Sentences:
    """Paired differences of every search and the named baselines; says so where a profile has no searches."""
    searches = laboratory.profile.sets["searches"]
    if not searches:
        return Sentences(("This profile has no searches to compare with.",))
    pairs = [(search, name) for search in searches for name in baselines]
    return difference_table(differences(usual_rows(laboratory.main_rows), pairs))
