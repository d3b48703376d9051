"""What is said of result rows: means with an interval, paired comparisons, ratios, many comparisons at once.

A distilled set comes from one distillation seed (n of them) and trains several networks (m repeats). The
repeats are averaged first, so that intervals speak of new distillation runs. The spread over the networks of
one set is another quantity; it is given only where `over="networks"` asks for it.
"""

import warnings
from collections.abc import Sequence
from functools import lru_cache

import numpy as np
import pandas as pd
import scipy  # its parts load when they are first used, which takes a second

from hglad.errors import HgladError
from hglad.settings import suggestion

CONFIDENCE = 0.95
INTERVALS = ("t", "bootstrap")
OVER = ("seeds", "networks")
RESAMPLES = 9999
BOOTSTRAP_SEED = 0  # of every interval anew, so that it does not depend on what was computed before
NO_INTERVAL = "none"
SEEDS_NAME = "95 % t interval over distillation seeds"
NETWORKS_NAME = "95 % t interval over the networks of one set"


def seed_means(rows: pd.DataFrame, by: list[str]) -> pd.DataFrame:
    """Mean accuracy of each distillation seed over its evaluation repeats, with the number of repeats."""
    groups = rows.groupby([*by, "seed"], sort=False, dropna=False)["accuracy"]
    return groups.agg(accuracy="mean", repeats="count").reset_index()


def equal(column: pd.Series, value: object) -> pd.Series:
    """Which rows have a value in a column; one that is missing equals those that are missing."""
    return column.isna() if pd.isna(value) else column == value


def summarise(rows: pd.DataFrame, by: list[str], interval: str = "t", over: str = "seeds") -> pd.DataFrame:
    """Mean accuracy over distillation seeds with an interval.

    Args:
        rows: result rows; accuracy in percent.
        by: columns whose values tell the groups apart.
        interval: "t", or "bootstrap" (needs 3 seeds; with fewer than about 10 it is too narrow).
        over: "seeds", or "networks" for the spread over the networks of one set: `sd` and interval then are
            those within a set, pooled over the sets of the group. What GLaD publishes is such an `sd`.

    Returns:
        One row per group: `mean`, `low`, `high` (95 %), `sd`, `seeds` (n), `repeats` (m) and the name of the
        interval in `interval`; bounds are nan and the name is "none" where there are too few values.

    Raises:
        HgladError: unknown interval, or a bootstrap over networks.
    """
    _check_interval(interval, over)
    means = seed_means(rows, by).groupby(by, sort=False, dropna=False)
    table = means.agg(
        mean=("accuracy", "mean"),
        sd=("accuracy", "std"),
        seeds=("accuracy", "count"),
        repeats=("repeats", "max"),
    ).reset_index()
    if over == "networks":
        return _over_networks(rows, by, table)
    if interval == "bootstrap":
        bounds = [bootstrap_interval(values.to_numpy()) for _, values in means["accuracy"]]
        return table.assign(**dict(zip(("low", "high", "interval"), zip(*bounds, strict=True), strict=True)))
    half = t_factor(table["seeds"]) * table["sd"] / np.sqrt(table["seeds"])
    names = np.where(table["seeds"] > 1, SEEDS_NAME, NO_INTERVAL)
    return table.assign(low=table["mean"] - half, high=table["mean"] + half, interval=names)


def _check_interval(interval: str, over: str) -> None:
    if interval not in INTERVALS:
        raise HgladError(f"unknown interval '{interval}': {suggestion(interval, INTERVALS)}")
    if over not in OVER:
        raise HgladError(f"an interval over '{over}' is not known: {suggestion(over, OVER)}")
    if over == "networks" and interval != "t":
        raise HgladError(f"interval is '{interval}' over networks: expected 't', bootstrap is over seeds")


def _over_networks(rows: pd.DataFrame, by: list[str], table: pd.DataFrame) -> pd.DataFrame:
    """Deviation of the networks from the mean of their set, pooled over sets, and a t interval from it."""
    own = rows.groupby([*by, "seed"], sort=False, dropna=False)["accuracy"].transform("mean")
    squares = rows.assign(square=(rows["accuracy"] - own) ** 2).groupby(by, sort=False, dropna=False)
    count = squares["accuracy"].count().to_numpy()
    freedom = count - table["seeds"]
    sd = np.sqrt(squares["square"].sum().to_numpy() / freedom.where(freedom > 0))
    half = t_factor(freedom + 1) * sd / np.sqrt(count / table["seeds"])
    names = np.where(freedom > 0, NETWORKS_NAME, NO_INTERVAL)
    return table.assign(sd=sd, low=table["mean"] - half, high=table["mean"] + half, interval=names)


def t_factor(n: pd.Series | int) -> np.ndarray:
    """Two-sided 95 % quantile of Student's t with n - 1 degrees of freedom; nan for a single value."""
    return scipy.stats.t.ppf((1 + CONFIDENCE) / 2, np.where(n > 1, n - 1, np.nan))


def bootstrap_interval(values: np.ndarray) -> tuple[float, float, str]:
    """95 % bootstrap interval of a mean: BCa (Efron 1987), or by percentiles where BCa does not exist.

    Returns:
        Bounds and name; nan and "none" for fewer than 3 values.
    """
    if len(values) < 3:
        return np.nan, np.nan, NO_INTERVAL
    for method in ("BCa", "percentile"):  # BCa is undefined for values that are all equal
        rng = np.random.default_rng(BOOTSTRAP_SEED)
        with warnings.catch_warnings(), np.errstate(invalid="ignore"):
            warnings.simplefilter("ignore", scipy.stats.DegenerateDataWarning)
            found = scipy.stats.bootstrap(
                (values,), np.mean, n_resamples=RESAMPLES, confidence_level=CONFIDENCE, method=method, rng=rng
            )
        low, high = found.confidence_interval
        if np.isfinite([low, high]).all():
            break
    return float(low), float(high), f"95 % bootstrap interval ({method}) over distillation seeds"


def paired(rows: pd.DataFrame, first: str, second: str, by: list[str]) -> pd.DataFrame:
    """Difference `first` - `second` in accuracy over shared distillation seeds, with a paired t interval.

    Returns:
        One row per group with shared seeds: `mean`, `low`, `high` (95 %, points), `sd`, `seeds` (n),
        `dropped` (seeds that only one of the two has), `p` of the two-sided paired t test, `effect`
        (`hedges_g_z`), `comparison`.

    Raises:
        HgladError: a method that has no rows.
    """
    methods = rows["method"].unique()
    for method in (first, second):
        if method not in methods:
            raise HgladError(f"no results of method '{method}': {suggestion(method, methods)}")
    wide = seed_means(rows, [*by, "method"]).pivot_table(
        index=[*by, "seed"], columns="method", values="accuracy"
    )
    wide = wide[[first, second]].dropna(how="all")
    difference = (wide[first] - wide[second]).rename("difference").reset_index()
    groups = difference.groupby(by, sort=False)["difference"]
    table = groups.agg(mean="mean", sd="std", seeds="count", values="size").reset_index()
    table = table[table["seeds"] > 0].reset_index(drop=True)
    table["dropped"] = table.pop("values") - table["seeds"]
    table = table.assign(
        p=paired_p(table["mean"], table["sd"], table["seeds"]),
        effect=hedges_g_z(table["mean"], table["sd"], table["seeds"]),
    )
    half = t_factor(table["seeds"]) * table["sd"] / np.sqrt(table["seeds"])
    return table.assign(low=table["mean"] - half, high=table["mean"] + half, comparison=f"{first} - {second}")


def paired_p(mean: pd.Series | float, sd: pd.Series, n: pd.Series | int) -> np.ndarray:
    """P value of the two-sided paired t test; nan for one seed, or differences that are all equal."""
    statistic = mean / sd.where(sd > 0) * np.sqrt(n)
    return 2 * scipy.stats.t.sf(np.abs(statistic), np.where(n > 1, n - 1, np.nan))


def detectable(sd: pd.Series | float, n: pd.Series | int, power: float = 0.8) -> np.ndarray:
    """Smallest true difference that a two-sided paired t test at 5 % finds with a given probability.

    Args:
        sd: standard deviation of the paired differences, as it was measured.
        n: pairs.
        power: that probability; 0.8 by convention (Cohen 1988).

    Returns:
        The difference, in the unit of `sd`; nan for a single pair.
    """
    return np.asarray(sd) * [_detectable_effect(int(each), power) for each in np.atleast_1d(n)]


@lru_cache
def _detectable_effect(n: int, power: float) -> float:
    """As `detectable` for a standard deviation of 1."""
    if n < 2:
        return np.nan
    quantiles = (np.arange(10_000) + 0.5) / 10_000
    scales = scipy.stats.chi(n - 1).ppf(quantiles) / np.sqrt(n - 1)  # measured over true deviation
    limits = t_factor(n) * scales

    def missing(effect: float) -> float:
        shift = effect * np.sqrt(n)
        return scipy.stats.norm.sf(limits - shift).mean() + scipy.stats.norm.sf(limits + shift).mean() - power

    return scipy.optimize.brentq(missing, 0, 1000)


def hedges_g_z(mean: pd.Series, sd: pd.Series, n: pd.Series) -> pd.Series:
    """Effect size of paired differences: Cohen's d_z = mean / sd, times Hedges' exact factor for few seeds.

    The factor is gamma(v/2) / (sqrt(v/2) gamma((v-1)/2)) with v = n - 1 (Hedges 1981); it exists from three
    seeds on. nan below, and for differences that are all equal.
    """
    v = np.where(n > 2, n - 1, np.nan)
    factor = np.exp(scipy.special.gammaln(v / 2) - scipy.special.gammaln((v - 1) / 2)) / np.sqrt(v / 2)
    return mean / sd.where(sd > 0) * factor


def holm(p: Sequence[float]) -> np.ndarray:
    """P values that are adjusted for being shown together (Holm 1979); nan stays nan and does not count."""
    p = np.asarray(p, dtype=float)
    order = np.argsort(p)  # nan last
    left = np.isfinite(p).sum() - np.arange(len(p))
    adjusted = np.empty_like(p)
    adjusted[order] = np.minimum(1, np.maximum.accumulate(p[order] * np.maximum(left, 1)))
    return adjusted


def difference(first: pd.Series, second: pd.Series) -> dict[str, object]:
    """Difference of means `first` - `second`: paired where seeds are shared, else that of two samples.

    Args:
        first, second: mean accuracy of each seed; the index is the seed.

    Returns:
        `mean`, `low`, `high` (95 %), `p` (two-sided t test), `seeds` (shared; 0 where unpaired), `dropped`
        (seeds of only one of them), `interval` (its name). nan and "none" where there are too few seeds.
    """
    shared = (first - second).dropna()
    if shared.empty:
        return _unpaired(first, second)
    n, mean, sd = len(shared), shared.mean(), pd.Series([shared.std()])
    half = (t_factor(n) * sd / np.sqrt(n)).item()
    return {
        "mean": mean,
        "low": mean - half,
        "high": mean + half,
        "p": paired_p(mean, sd, n).item(),
        "seeds": n,
        "dropped": len(first.index.union(second.index)) - n,
        "interval": "95 % paired t interval over distillation seeds" if n > 1 else NO_INTERVAL,
    }


def _unpaired(first: pd.Series, second: pd.Series) -> dict[str, object]:
    """Difference of two samples with Welch's interval, where both have two seeds and there is any spread."""
    found = {"mean": first.mean() - second.mean(), "seeds": 0, "dropped": 0}
    if min(len(first), len(second)) < 2 or not first.var() + second.var() > 0:
        return found | {"low": np.nan, "high": np.nan, "p": np.nan, "interval": NO_INTERVAL}
    test = scipy.stats.ttest_ind(first, second, equal_var=False)
    low, high = test.confidence_interval(CONFIDENCE)
    name = "95 % Welch t interval over distillation seeds"
    return found | {"low": low, "high": high, "p": test.pvalue, "interval": name}


def ratio(first: pd.Series, second: pd.Series) -> dict[str, object]:
    """Ratio of two independent means with Fieller's 95 % interval (Fieller 1954).

    The degrees of freedom of first - ratio * second are those of Welch and Satterthwaite.

    Args:
        first, second: mean accuracy of each seed.

    Returns:
        `mean`, `low`, `high`, `interval`; bounds are nan with one seed on either side, without any spread,
        or where the second mean is not told apart from 0.
    """
    a, b = first.mean(), second.mean()
    found = {"mean": a / b, "low": np.nan, "high": np.nan, "interval": NO_INTERVAL}
    if min(len(first), len(second)) < 2 or not first.var() + second.var() > 0:
        return found
    va, vb = first.var() / len(first), second.var() / len(second)
    parts = np.array([va, found["mean"] ** 2 * vb])
    v = parts.sum() ** 2 / (parts**2 / [len(first) - 1, len(second) - 1]).sum()
    t2 = scipy.stats.t.ppf((1 + CONFIDENCE) / 2, v) ** 2
    scale = b**2 - t2 * vb
    if scale <= 0:
        return found
    half = np.sqrt((a * b) ** 2 - (a**2 - t2 * va) * scale)
    bounds = {"low": (a * b - half) / scale, "high": (a * b + half) / scale}
    return found | bounds | {"interval": "95 % Fieller interval"}


def as_cell(row: pd.Series) -> str:
    """Table cell: mean with its interval (none where there is none), then seeds x repeats.

    The interval is its half width, or its two ends where it need not be symmetric.
    """
    return f"{row['mean']:.1f}{spread(row)} ({row['seeds']:.0f}×{row['repeats']:.0f})"


def spread(row: pd.Series, digits: int = 1) -> str:
    """The interval of an estimate as it follows the mean in a table; empty where there is none."""
    if not np.isfinite(row["high"] - row["low"]):
        return ""
    if " t interval" in row.get("interval", SEEDS_NAME):
        return f" ± {(row['high'] - row['low']) / 2:.{digits}f}"
    return f" [{row['low']:.{digits}f}–{row['high']:.{digits}f}]"
