"""Paired differences between methods, and what their intervals say."""

from collections.abc import Iterable, Sequence

import numpy as np
import pandas as pd

from hglad.labels import method_label
from hglad.laboratory import Laboratory
from hglad.report.accuracy import usual_rows
from hglad.report.show import Sentences, Table
from hglad.report.texts import NONE, interval_text, per_class, signed
from hglad.statistics import paired


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
    """A sentence per paired difference: whether its interval excludes 0, and in whose favour."""
    many = table["objective"].nunique() > 1
    return Sentences(
        tuple(
            (f"{row['objective'].upper()}, " if many else "")
            + f"{per_class(row['ipc'])}: {verdict(_comparison(row), row)}"
            for _, row in table.iterrows()
        )
    )


def verdict(name: str, estimate: pd.Series) -> str:
    """What an interval for a difference says.

    Args:
        name: what is estimated.
        estimate: `mean`, `low`, `high` and `seeds`.
    """
    text = f"{name} = {signed(estimate['mean'])} points"
    if estimate["seeds"] < 2:
        return f"{text}; one seed, no interval."
    excludes = estimate["low"] > 0 or estimate["high"] < 0
    found = "excludes 0" if excludes else "includes 0: not told apart with these seeds"
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
