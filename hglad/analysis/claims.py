"""What results say about each claim of the paper's abstract, by rules that were there before the results.

An estimate is a paired difference (or ratio) with its 95 % t interval over distillation seeds. A claim holds
in a comparison whose interval lies on the claimed side, fails where it lies on the other side, and is open
where the interval reaches over both. `detectable` says how large a true difference has to be to be found with
a probability of 80 %: an open claim is not a refuted one.
"""

from collections.abc import Iterable

import numpy as np
import pandas as pd

from hglad.analysis.labels import method_label
from hglad.analysis.selection import choices, rank_correlations
from hglad.analysis.statistics import detectable, holm, paired, paired_p, seed_means, summarise
from hglad.experiments.store import main_rows

SAME = "more accurate on the surrogate's architecture"
OTHERS = "more accurate on other architectures"
TIME = "in no more time"
METRIC = "a distance in place of evaluations"
CLAIMS = (SAME, OTHERS, TIME, METRIC)
HOLDS, FAILS, OPEN = "holds", "fails", "open"
EQUAL = 1.25
"""Ratio up to which a time counts as no more than another: the usual bound of tests of equivalence."""
PLACE = ["objective", "ipc"]


def accuracy_findings(rows: pd.DataFrame, claim: str) -> pd.DataFrame:
    """The hierarchy minus GLaD and minus pixels in accuracy (points), by objective and ipc.

    Args:
        rows: result rows of searches; networks and repeats of a seed are averaged first.
        claim: `SAME` or `OTHERS`.
    """
    means = seed_means(rows[rows["objective"].notna()], [*PLACE, "method", "network"])
    means = means.groupby([*PLACE, "method", "seed"], sort=False)["accuracy"].mean().reset_index()
    parts = [
        paired(means, "hierarchical", other, PLACE).assign(comparison=f"H-GLaD − {method_label(other)}")
        for other in ("single", "pixels")
    ]
    table = pd.concat(parts).sort_values(PLACE, kind="stable", ignore_index=True)
    return _told_from_0(table.assign(claim=claim, unit="points"))


def on_others(rows: pd.DataFrame, main: str) -> pd.DataFrame:
    """Rows of all architectures but the main one, of the sets that all of these have met."""
    rows = main_rows(rows)
    rows = rows[(rows["network"] != main) & rows["objective"].notna()]
    met = rows.groupby([*PLACE, "method", "seed"], sort=False)["network"].transform("nunique")
    return rows[met == rows["network"].nunique()]


def time_findings(cards: Iterable[dict]) -> pd.DataFrame:
    """Ratio of the hierarchy's time to GLaD's, by objective and ipc, paired over seeds.

    Args:
        cards: cards of distilled sets, whose `seconds` are those of the whole search.
    """
    times = pd.DataFrame([_run_time(card) for card in cards]).query("method in ('hierarchical', 'single')")
    logarithms = times.assign(accuracy=np.log(times["seconds"]))  # `paired` takes a column of this name
    table = paired(logarithms, "hierarchical", "single", PLACE)
    table = table.assign(claim=TIME, comparison="H-GLaD / GLaD", unit="ratio")
    table["detectable"] = np.exp(detectable(table["sd"], table["seeds"]))
    for name in ("mean", "low", "high"):
        table[name] = np.exp(table[name])
    sides = [table["high"] < EQUAL, table["low"] > EQUAL]
    return table.assign(verdict=np.select(sides, [HOLDS, FAILS], OPEN), p=np.nan)


def _run_time(card: dict) -> dict[str, object]:
    own = card["settings"]
    marks = {"objective": own["objective"], "method": own["kind"], "ipc": own["ipc"], "seed": own["seed"]}
    return marks | {"seconds": card["provenance"]["seconds"]}


def metric_findings(distances: pd.DataFrame, metric: str, ipc: int) -> pd.DataFrame:
    """What choosing by a distance gains over the last iterate, and how it ranks iterates, by objective.

    Args:
        distances: rows of `Laboratory.distances`.
        metric: its column with the distance.
        ipc: images per class of these runs.
    """
    chosen = choices(distances, [metric]).pivot_table(
        index=["objective", "seed"], columns="rule", values="accuracy", sort=False
    )
    rule = next(name for name in chosen if name.startswith("smallest"))
    gain = (chosen[rule] - chosen["last iterate"]).rename("accuracy").reset_index()
    ranks = rank_correlations(distances, [metric]).query("iterates == 'all stages'")
    parts = {
        "chosen by distance − last iterate": (gain, "points"),
        "rank correlation with accuracy": (ranks.assign(accuracy=ranks["spearman"]).dropna(), "Spearman"),
    }
    tables = [
        summarise(values, ["objective"]).assign(comparison=name, unit=unit)
        for name, (values, unit) in parts.items()
    ]
    table = pd.concat(tables, ignore_index=True).assign(claim=METRIC, ipc=ipc)
    table = _told_from_0(table.assign(p=paired_p(table["mean"], table["sd"], table["seeds"])))
    return _within_bounds(table, table["unit"] == "Spearman")


def _within_bounds(table: pd.DataFrame, correlations: pd.Series) -> pd.DataFrame:
    """With the intervals of correlations cut at -1 and 1, which a t interval of few runs does not know."""
    for name in ("low", "high"):
        table[name] = table[name].mask(correlations, table[name].clip(-1, 1))
    return table


def _told_from_0(table: pd.DataFrame) -> pd.DataFrame:
    """With the verdict on a difference that is claimed to be positive, and what could have been found."""
    sides = [table["low"] > 0, table["high"] < 0]
    return table.assign(
        verdict=np.select(sides, [HOLDS, FAILS], OPEN), detectable=detectable(table["sd"], table["seeds"])
    )


def together(parts: Iterable[pd.DataFrame]) -> pd.DataFrame:
    """Findings in the order of the claims, with `p_holm`: p adjusted for all comparisons of a claim."""
    table = pd.concat(parts, ignore_index=True)
    table["p_holm"] = table.groupby("claim", sort=False)["p"].transform(holm)
    return table.sort_values("claim", key=lambda names: names.map(CLAIMS.index), kind="stable")
