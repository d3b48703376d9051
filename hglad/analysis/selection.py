"""How well metrics choose among the iterates of a search, and what each part of the search adds.

Interval of a mean over runs: percentile bootstrap over the runs, so that the many iterates of one run
count once; with few runs it is too narrow. Difference between two searches: t interval over the seeds that
both have.
"""

from collections.abc import Iterable, Mapping, Sequence

import numpy as np
import pandas as pd
import scipy

from hglad.analysis.plots import metric_label
from hglad.analysis.report import NONE, Sentences, Table, made_at, signed, verdict
from hglad.analysis.statistics import paired, summarise

RUN = ["objective", "seed"]  # what makes a run
RESAMPLES = 9999
MEASUREMENT = "one measurement in the search, decoding included"


def fresh(distances: pd.DataFrame) -> pd.DataFrame:
    """Iterates without the start of later stages, whose images an earlier iterate has already."""
    return distances[(distances["step"] > 0) | (distances["stage"] == 0)]


def candidate_table(candidates: pd.DataFrame) -> Table:
    """Candidates by objective: runs, stages, iterates, range of their accuracy."""
    rows = [
        {
            "objective": objective.upper(),
            "runs": rows["seed"].nunique(),
            "stages": rows["stage"].nunique(),
            "candidates": len(rows),
            "test accuracy (%)": f"{rows['accuracy'].min():.1f} to {rows['accuracy'].max():.1f}",
        }
        for objective, rows in candidates.groupby("objective", sort=False)
    ]
    return Table(pd.DataFrame(rows))


def rank_correlations(distances: pd.DataFrame, metrics: Sequence[str]) -> pd.DataFrame:
    """Correlation of ranks by -distance and by accuracy: 1 where a metric orders iterates as accuracy does.

    Args:
        distances: rows of `Laboratory.distances`.
        metrics: columns with distances.

    Returns:
        One row per metric, part of the run (`all stages`, `last stage`), objective and seed: `spearman` and
        `kendall` (tau b); nan where all accuracies or distances are equal.
    """
    last = distances["stage"] == distances.groupby(RUN)["stage"].transform("max")
    parts = {"all stages": fresh(distances), "last stage": distances[last]}
    return pd.DataFrame(
        {"metric": metric, "iterates": name, **dict(zip(RUN, run, strict=True))} | _correlations(rows, metric)
        for metric in metrics
        for name, part in parts.items()
        for run, rows in part.groupby(RUN, sort=False)
    )


def _correlations(run: pd.DataFrame, metric: str) -> dict[str, float]:
    if min(run[metric].nunique(), run["accuracy"].nunique()) < 2:
        return {"spearman": float("nan"), "kendall": float("nan")}
    ranks = {"spearman": scipy.stats.spearmanr, "kendall": scipy.stats.kendalltau}
    return {name: float(f(-run[metric], run["accuracy"]).statistic) for name, f in ranks.items()}


def bootstrap_interval(values: Sequence[float]) -> tuple[float, float]:
    """95 % interval of the mean by resampling the values; nan for fewer than three."""
    values = np.asarray(values, dtype=float)
    values = values[~np.isnan(values)]
    if len(values) < 3:
        return float("nan"), float("nan")
    found = scipy.stats.bootstrap(
        (values,), np.mean, n_resamples=RESAMPLES, method="percentile", rng=np.random.default_rng(0)
    )
    return float(found.confidence_interval.low), float(found.confidence_interval.high)


def correlation_table(correlations: pd.DataFrame) -> Table:
    """Mean rank correlations over runs with bootstrap intervals, by metric, part and objective."""
    groups = correlations.groupby(["metric", "iterates", "objective"], sort=False)
    rows = []
    for (metric, iterates, objective), runs in groups:
        row = {"metric": metric_label(metric), "iterates": iterates, "objective": objective.upper()}
        row |= {name.capitalize(): _with_interval(runs[name]) for name in ("spearman", "kendall")}
        rows.append(row | {"runs": len(runs)})
    return Table(pd.DataFrame(rows), wrapped=True)


def _with_interval(values: pd.Series) -> str:
    low, high = bootstrap_interval(values)
    mean = _two_digits(values.mean())
    return mean if np.isnan(low) else f"{mean} ({_two_digits(low)} to {_two_digits(high)})"


def _two_digits(value: float) -> str:
    return NONE if pd.isna(value) else f"{round(value, 2) + 0:.2f}".replace("-", "−")


def cost_table(seconds: pd.DataFrame, steps: pd.DataFrame) -> Table:
    """Time of one call of each metric, and what share of a step that is when every tenth is measured.

    Args:
        seconds: rows of `Laboratory.metric_seconds`.
        steps: rows of `Laboratory.step_seconds`.
    """
    whole = steps.assign(metric=MEASUREMENT, seconds=steps["measurement"])
    seconds = pd.concat([seconds, whole[seconds.columns]], ignore_index=True)
    table = seconds.merge(steps, on=RUN, suffixes=("", "_step"))
    table["share"] = 100 * table["seconds"] / (10 * table["seconds_step"])
    means = table.groupby(["metric", "objective"], sort=False)[["seconds", "seconds_step", "share"]].mean()
    means = means.reset_index()
    cells = {
        "metric": means["metric"].map(metric_label),
        "objective": means["objective"].str.upper(),
        "one call (ms)": means["seconds"].map(_milliseconds),
        "one step (ms)": means["seconds_step"].map(_milliseconds),
        "share of a step, every 10 steps": means["share"].map(lambda x: f"{x:.2g} %"),
    }
    return Table(pd.DataFrame(cells), wrapped=True)


def _milliseconds(seconds: float) -> str:
    value = 1000 * seconds
    return f"{value:,.0f}" if value >= 100 else f"{value:.3g}"


def choices(distances: pd.DataFrame, metrics: Sequence[str]) -> pd.DataFrame:
    """The iterate that each rule picks in each run: the last one, the smallest distance, the best accuracy.

    Returns:
        One row per rule and run: `rule`, `objective`, `seed` (a name of the run), `accuracy`, `regret`
        (points below the best iterate).
    """
    rows = []
    for (objective, seed), run in distances.groupby(RUN, sort=False):
        run = run.sort_values("iterate")
        picks = {"last iterate": run.index[-1]}
        picks |= {f"smallest {metric_label(metric)}": run[metric].idxmin() for metric in metrics}
        picks["best measured (oracle)"] = run["accuracy"].idxmax()
        accuracies = {rule: run.loc[index, "accuracy"] for rule, index in picks.items()}
        best, name = accuracies["best measured (oracle)"], f"{objective} {seed}"
        rows += [
            {"rule": rule, "objective": objective, "seed": name, "accuracy": value, "regret": best - value}
            for rule, value in accuracies.items()
        ]
    return pd.DataFrame(rows)


def choice_table(chosen: pd.DataFrame) -> Table:
    """Mean accuracy and regret of each rule, regret with a bootstrap interval over the runs."""
    groups = chosen.groupby(["objective", "rule"], sort=False)
    rows = [
        {
            "objective": objective.upper(),
            "chosen iterate": rule,
            "test accuracy (%)": f"{runs['accuracy'].mean():.1f}",
            "regret (points)": _regret(runs["regret"]),
            "runs": len(runs),
        }
        for (objective, rule), runs in groups
    ]
    return Table(pd.DataFrame(rows), wrapped=True)


def _regret(values: pd.Series) -> str:
    low, high = bootstrap_interval(values)
    return f"{values.mean():.1f}" + ("" if np.isnan(low) else f" ({low:.1f} to {high:.1f})")


def choice_verdicts(chosen: pd.DataFrame) -> Sentences:
    """A sentence per objective and metric: its choice against the last iterate, paired over the runs."""
    lines = []
    for objective, part in chosen.groupby("objective", sort=False):
        wide = part.pivot_table(index="seed", columns="rule", values="accuracy", sort=False)
        for rule in [rule for rule in wide if rule.startswith("smallest")]:
            gain = (wide[rule] - wide["last iterate"]).rename("accuracy").reset_index().assign(rule=rule)
            name = f"{objective.upper()}, {rule} − last iterate"
            lines.append(verdict(name, summarise(gain, ["rule"]).iloc[0]))
    return Sentences(tuple(lines))


def effects(rows: pd.DataFrame, base: str) -> pd.DataFrame:
    """Accuracy of each variant minus that of `base`, over the seeds of both.

    Args:
        rows: result rows with a column `variant`.
        base: the variant to compare with.

    Returns:
        Columns of `results.paired` by `objective`, and `variant`, in the order of the rows.
    """
    named = rows.assign(method=rows["variant"])
    others = [name for name in dict.fromkeys(rows["variant"]) if name != base]
    parts = [paired(named, name, base, ["objective"]).assign(variant=name) for name in others]
    order = list(dict.fromkeys(rows["objective"]))
    table = pd.concat(parts, ignore_index=True)
    return table.sort_values("objective", key=lambda names: names.map(order.index), kind="stable")


def effect_table(table: pd.DataFrame, rows: pd.DataFrame, base: str) -> Table:
    """Accuracy of the base, then the difference of each variant with its interval, a column per objective."""
    objectives = list(dict.fromkeys(rows["objective"]))
    whole = summarise(rows[rows["variant"] == base], ["objective"]).set_index("objective")
    first = {"": base} | {name.upper(): f"{whole.loc[name, 'mean']:.1f} %" for name in objectives}
    lines = [first]
    for variant, parts in table.groupby("variant", sort=False):
        cells = {row["objective"].upper(): _difference(row) for _, row in parts.iterrows()}
        lines.append({"": variant} | cells)
    return Table(pd.DataFrame(lines))


def _difference(row: pd.Series) -> str:
    interval = "" if row["seeds"] < 2 else f" ({signed(row['low'])} to {signed(row['high'])})"
    return signed(row["mean"]) + interval


def start_table(cards: Mapping[str, Iterable[dict]]) -> Table:
    """Runs of each variant whose selected iterate is the very first one, before any step.

    Args:
        cards: cards of distilled sets by variant.
    """
    rows = [
        {
            "variant": variant,
            "objective": card["settings"]["objective"].upper(),
            "kept": made_at(card) == (0, 0),
        }
        for variant, runs in cards.items()
        for card in runs
    ]
    counts = pd.DataFrame(rows).groupby(["variant", "objective"], sort=False)["kept"].agg(["sum", "count"])
    cells = counts.apply(lambda row: f"{row['sum']:.0f} of {row['count']:.0f}", axis=1).unstack(sort=False)
    return Table(cells.rename_axis(index=None, columns=None).reset_index(names=""))


def effect_verdicts(table: pd.DataFrame) -> Sentences:
    """A sentence for each difference whose interval excludes 0; one that says so where there is none."""
    same = (table["mean"] == 0) & (table["sd"] == 0)
    told = table[(table["low"] > 0) | (table["high"] < 0)]
    lines = [verdict(f"{row['objective'].upper()}, {row['variant']}", row) for _, row in told.iterrows()]
    count = f"{len(told)} of {len(table) - same.sum()} intervals exclude 0"
    first = f"{count}; about one in twenty would by chance alone."
    if same.any():
        first += f" Left out: {same.sum()} that gave the very result of the base with every seed."
    return Sentences((first, *lines))
