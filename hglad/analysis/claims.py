"""What results say about each claim of the paper's abstract, by rules that were there before the results.

An estimate is a paired difference (or ratio) with its 95 % t interval over distillation seeds. A claim holds
in a comparison whose interval lies on the claimed side, fails where it lies on the other side, and is open
where the interval reaches over both; below three seeds nothing is said. `detectable` says how large a true
difference has to be to be found with a probability of 80 %: an open claim is not a refuted one.
"""

from collections.abc import Iterable, Sequence

import numpy as np
import pandas as pd
import scipy

from hglad.analysis import frame, method_label, metric_label
from hglad.analysis.cells import main_rows
from hglad.analysis.statistics import detectable, estimate, holm, paired, seed_means

SAME = "more accurate on the surrogate's architecture"
OTHERS = "more accurate on other architectures"
TIME = "in no more time"
METRIC = "a distance in place of evaluations"
CLAIMS = (SAME, OTHERS, TIME, METRIC)
HOLDS, FAILS, OPEN, TOO_FEW = "holds", "fails", "open", "too few seeds"
VERDICTS = (HOLDS, FAILS, OPEN, TOO_FEW)
EQUAL = 1.25
"""Ratio up to which a time counts as no more than another: the usual bound of tests of equivalence."""
PLACE = ["objective", "ipc"]
RUN = ["objective", "seed"]


def findings(experiment) -> pd.DataFrame:
    """Findings on every claim from the experiments that a profile has, with `p_holm`, adjusted by claim.

    Returns:
        `claim`, `objective`, `ipc`, `comparison`, those of `statistics.estimate`, `unit`, `verdict`,
        `detectable`, `p_holm`.
    """
    main, *others = experiment.profile.networks
    searches, cross, ablation = (
        frame.part(experiment, name)
        for name in ("hierarchical_search", "cross_architecture", "metric_ablation")
    )
    parts = []
    if searches:
        parts.append(accuracy_findings(frame.rows(searches), SAME))
    if cross and others:
        parts.append(accuracy_findings(on_others(frame.rows(cross), main), OTHERS))
    if searches:
        parts.append(time_findings(frame.runs(searches)))
    if ablation:
        metric, ipc = frame.metrics(ablation)[0], experiment.profile.sets.ipc[0]
        parts.append(metric_findings(frame.distances(ablation), metric, ipc))
    return together(parts)


def together(parts: Iterable[pd.DataFrame]) -> pd.DataFrame:
    """Findings in the order of the claims, with `p_holm`: p adjusted for all comparisons of a claim."""
    table = pd.concat(parts, ignore_index=True)
    table["p_holm"] = table.groupby("claim", sort=False)["p"].transform(holm)
    return table.sort_values("claim", key=lambda names: names.map(CLAIMS.index), kind="stable")


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
    return _judged(table.assign(claim=claim, unit="points"), 0)


def on_others(rows: pd.DataFrame, main: str) -> pd.DataFrame:
    """Rows of all architectures but the main one, of the sets that all of these have met."""
    rows = main_rows(rows)
    rows = rows[(rows["network"] != main) & rows["objective"].notna()]
    met = rows.groupby([*PLACE, "method", "seed"], sort=False)["network"].transform("nunique")
    return rows[met == rows["network"].nunique()]


def time_findings(runs: pd.DataFrame) -> pd.DataFrame:
    """Ratio of the hierarchy's seconds to GLaD's, by objective and ipc, paired over seeds."""
    times = runs[runs["method"].isin(["hierarchical", "single"])]
    logarithms = times.assign(accuracy=np.log(times["seconds"]))  # `paired` takes a column of this name
    table = paired(logarithms, "hierarchical", "single", PLACE)
    table = _judged(
        table.assign(claim=TIME, comparison="H-GLaD / GLaD", unit="ratio", p=np.nan), np.log(EQUAL)
    )
    ratios = {name: np.exp(table[name]) for name in ("mean", "low", "high", "detectable")}
    return table.assign(verdict=table["verdict"].replace({HOLDS: FAILS, FAILS: HOLDS}), **ratios)


def metric_findings(distances: pd.DataFrame, metric: str, ipc: int) -> pd.DataFrame:
    """What choosing by a distance gains over the last iterate, and how it ranks iterates, by objective.

    Args:
        distances: as `frame.distances` gives them.
        metric: its column with the distance.
        ipc: images per class of these runs.
    """
    chosen = choices(distances, [metric])
    ranks = rank_correlations(distances, [metric]).query("iterates == 'all stages'")
    lines = []
    for objective, rules in chosen.groupby("objective", sort=False):
        smallest, last = (
            rules[rules["metric"] == name].set_index("seed")["accuracy"] for name in (metric, "last")
        )
        correlations = ranks[ranks["objective"] == objective]["spearman"]
        lines += [
            estimate(smallest - last)
            | {"objective": objective, "comparison": "chosen by distance − last iterate", "unit": "points"},
            estimate(correlations)
            | {"objective": objective, "comparison": "rank correlation with accuracy", "unit": "Spearman"},
        ]
    table = pd.DataFrame(lines).sort_values("unit", key=lambda units: units == "Spearman", kind="stable")
    table = _judged(table.assign(claim=METRIC, ipc=ipc), 0)
    for name in ("low", "high"):  # a t interval of few runs does not know what a correlation can be
        table[name] = table[name].mask(table["unit"] == "Spearman", table[name].clip(-1, 1))
    return table


def _judged(table: pd.DataFrame, bound: float) -> pd.DataFrame:
    """With the verdict on what is claimed to be above a bound, and what could have been found."""
    cases = [table["high"].isna(), table["low"] > bound, table["high"] < bound]
    least = [detectable(sd, n) for sd, n in zip(table["sd"], table["seeds"], strict=True)]
    return table.assign(verdict=np.select(cases, [TOO_FEW, HOLDS, FAILS], OPEN), detectable=least)


def tally(table: pd.DataFrame) -> str:
    """In how many comparisons a claim holds, fails and is open, and in how many seeds are too few."""
    counts = {verdict: int((table["verdict"] == verdict).sum()) for verdict in VERDICTS}
    few = counts.pop(TOO_FEW)
    named = [f"{verdict} in {count}" for verdict, count in counts.items()] + [f"{TOO_FEW} in {few}"] * (
        few > 0
    )
    return f"{', '.join(named)} of {len(table)}"


def sentences(table: pd.DataFrame) -> list[str]:
    """A sentence for each claim: in how many comparisons it holds, fails, is open or was not tested."""
    lines = []
    for claim in CLAIMS:
        part = table[table["claim"] == claim]
        told = (part["p_holm"] < 0.05).sum()
        holm_text = f"; {told} of them differ from 0 once all are looked at together (Holm, 5 %)"
        text = f"{tally(part)} comparisons{holm_text if part['p'].notna().any() else ''}"
        lines.append(f"{claim}: {text if len(part) else 'not tested in this profile'}.")
    return lines


# How a distance chooses among the iterates of a search


def rank_correlations(distances: pd.DataFrame, metrics: Sequence[str]) -> pd.DataFrame:
    """Correlation of ranks by -distance and by accuracy: 1 where a metric orders iterates as accuracy does.

    Args:
        distances: as `frame.distances` gives them.
        metrics: columns with distances.

    Returns:
        One row per metric, part of the run (`all stages`, `last stage`), objective and seed: `spearman` and
        `kendall` (tau b); nan where all accuracies or distances are equal.
    """
    last = distances["stage"] == distances.groupby(RUN)["stage"].transform("max")
    parts = {"all stages": frame.fresh(distances), "last stage": distances[last]}
    lines = []
    for metric in metrics:
        for name, part in parts.items():
            for run, rows in part.groupby(RUN, sort=False):
                spread = min(rows[metric].nunique(), rows["accuracy"].nunique()) > 1
                pair = (-rows[metric], rows["accuracy"])
                ranks = {"spearman": scipy.stats.spearmanr, "kendall": scipy.stats.kendalltau}
                found = {key: float(f(*pair).statistic) if spread else np.nan for key, f in ranks.items()}
                lines.append(
                    {"metric": metric, "iterates": name, **dict(zip(RUN, run, strict=True)), **found}
                )
    return pd.DataFrame(lines)


def choices(distances: pd.DataFrame, metrics: Sequence[str]) -> pd.DataFrame:
    """The iterate that each rule picks in each run: the last one, the smallest distance, the best accuracy.

    Returns:
        One row per rule and run: `metric` ("last", a metric, "best"), `rule` (its name for a reader),
        `objective`, `seed`, `accuracy`, `regret` (points below the best iterate).
    """
    lines = []
    for (objective, seed), run in distances.groupby(RUN, sort=False):
        run = run.sort_values("iterate")
        picks = {"last": ("last iterate", run.index[-1])}
        picks |= {metric: (f"smallest {metric_label(metric)}", run[metric].idxmin()) for metric in metrics}
        picks["best"] = ("best measured (oracle)", run["accuracy"].idxmax())
        for metric, (rule, index) in picks.items():
            accuracy, best = run["accuracy"][index], run["accuracy"].max()
            marks = {"metric": metric, "rule": rule, "objective": objective, "seed": seed}
            lines.append(marks | {"accuracy": accuracy, "regret": best - accuracy})
    return pd.DataFrame(lines)
