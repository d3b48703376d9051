"""What is said of result rows: means with an interval, paired comparisons, ratios, many comparisons at once.

A distilled set comes from one distillation seed (n of them) and trains several networks (m repeats). The
repeats are averaged first, so that intervals speak of new distillation runs. The spread over the networks of
one set is another quantity; it is given only where `over="networks"` asks for it. Below three seeds nothing
is said of other runs: two values have a t interval 13 times as wide as their deviation.
"""

import warnings
from collections.abc import Sequence

import numpy as np
import pandas as pd
import scipy  # its parts load when they are first used, which takes a second

from hglad.errors import HgladError
from hglad.settings import suggestion

CONFIDENCE = 0.95
FEWEST = 3
"""Seeds below which there is no interval."""
INTERVALS = {"t": ("t", "seeds"), "bootstrap": ("bootstrap", "seeds"), "networks": ("t", "networks")}
"""What an interval is called where it is asked for, and what `summarize` is given for it."""
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


def summarize(rows: pd.DataFrame, by: list[str], interval: str = "t", over: str = "seeds") -> pd.DataFrame:
    """Mean accuracy over distillation seeds with an interval.

    Args:
        rows: result rows; accuracy in percent.
        by: columns whose values tell the groups apart.
        interval: "t", or "bootstrap" (with fewer than about 10 seeds it is too narrow).
        over: "seeds", or "networks" for the spread over the networks of one set: `sd` and interval then are
            those within a set, pooled over the sets of the group. What GLaD publishes is such an `sd`.

    Returns:
        One row per group: `mean`, `low`, `high` (95 %, cut at 0 and 100), `sd`, `seeds` (n), `repeats` (m)
        and the name of the interval in `interval`; bounds are nan and the name is "none" where there are too
        few values.

    Raises:
        HgladError: unknown interval, or a bootstrap over networks.
    """
    if (interval, over) not in INTERVALS.values():
        known = "'t' over seeds or networks, 'bootstrap' over seeds"
        raise HgladError(f"unknown interval '{interval}' over {over}: expected {known}")
    means = seed_means(rows, by).groupby(by, sort=False, dropna=False)
    table = means.agg(
        mean=("accuracy", "mean"),
        sd=("accuracy", "std"),
        seeds=("accuracy", "count"),
        repeats=("repeats", "max"),
    ).reset_index()
    if over == "networks":
        return _cut(_over_networks(rows, by, table))
    estimate = bootstrap_interval if interval == "bootstrap" else t_interval
    bounds = pd.DataFrame([estimate(values) for _, values in means["accuracy"]], index=table.index)
    return _cut(table.assign(low=bounds["low"], high=bounds["high"], interval=bounds["interval"]))


def _cut(table: pd.DataFrame) -> pd.DataFrame:
    """Intervals of accuracies do not reach beyond what an accuracy can be."""
    return table.assign(low=table["low"].clip(0, 100), high=table["high"].clip(0, 100))


def t_interval(values: Sequence[float]) -> dict[str, object]:
    """95 % t interval of a mean over seeds: `low`, `high`, `interval`; nan and "none" below three values."""
    values = np.asarray(values, dtype=float)
    if len(values) < FEWEST:
        return {"low": np.nan, "high": np.nan, "interval": NO_INTERVAL}
    if np.ptp(values) == 0:
        return {"low": values[0], "high": values[0], "interval": SEEDS_NAME}
    found = scipy.stats.ttest_1samp(values, 0).confidence_interval(CONFIDENCE)
    return {"low": float(found.low), "high": float(found.high), "interval": SEEDS_NAME}


def bootstrap_interval(values: Sequence[float], method: str = "BCa") -> dict[str, object]:
    """As `t_interval` by resampling: BCa (Efron 1987), or by percentiles where BCa does not exist.

    The draws are those of one seed, so that an interval does not depend on what was computed before.
    """
    values = np.asarray(values, dtype=float)
    if len(values) < FEWEST:
        return {"low": np.nan, "high": np.nan, "interval": NO_INTERVAL}
    for name in dict.fromkeys((method, "percentile")):  # BCa is undefined for values that are all equal
        with warnings.catch_warnings(), np.errstate(invalid="ignore"):
            warnings.simplefilter("ignore", scipy.stats.DegenerateDataWarning)
            found = scipy.stats.bootstrap(
                (values,), np.mean, confidence_level=CONFIDENCE, method=name, rng=np.random.default_rng(0)
            )
        low, high = map(float, found.confidence_interval)
        if np.isfinite([low, high]).all():
            break
    return {
        "low": low,
        "high": high,
        "interval": f"95 % bootstrap interval ({name}) over distillation seeds",
    }


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


def paired(rows: pd.DataFrame, first: str, second: str, by: list[str]) -> pd.DataFrame:
    """Difference `first` - `second` in accuracy over shared distillation seeds, with a paired t interval.

    Returns:
        One row per group with shared seeds: columns of `by`, `first`, `second`, and those of `estimate` of
        the differences, with `dropped` (seeds that only one of the two has).

    Raises:
        HgladError: a method that has no rows.
    """
    methods = rows["method"].unique()
    for method in (first, second):
        if method not in methods:
            raise HgladError(f"no results of method '{method}': {suggestion(method, methods)}")
    wide = seed_means(rows, [*by, "method"]).pivot_table(
        index=[*by, "seed"], columns="method", values="accuracy", sort=False
    )
    difference = (wide[first] - wide[second])[wide[[first, second]].notna().any(axis=1)]
    lines = []
    for place, values in difference.groupby(level=by, sort=False):
        if values.notna().any():
            place = dict(zip(by, np.atleast_1d(np.array(place, dtype=object)), strict=True))
            lines.append(place | {"first": first, "second": second} | estimate(values))
    return pd.DataFrame(lines)


def estimate(values: pd.Series) -> dict[str, object]:
    """What values by seed say of their mean; those that are nan are counted in `dropped`.

    Returns:
        `mean`, `sd`, `seeds` (n), `dropped`, `low`, `high` (95 % t interval), `interval` (its name), `p` (of
        the two-sided t test against 0), `effect` (`hedges_g_z`); nan and "none" where seeds are too few.
    """
    known = values.dropna()
    n, mean, sd = len(known), known.mean(), known.std()
    spread = n >= FEWEST and sd > 0
    return {
        "mean": mean,
        "sd": sd,
        "seeds": n,
        "dropped": len(values) - n,
        **t_interval(known),
        "p": scipy.stats.ttest_1samp(known, 0).pvalue if spread else np.nan,
        "effect": hedges_g_z(mean, sd, n) if spread else np.nan,
    }


def hedges_g_z(mean: float, sd: float, n: int) -> float:
    """Effect size of paired differences: Cohen's d_z = mean / sd, times Hedges' exact factor for few seeds.

    The factor is gamma(v/2) / (sqrt(v/2) gamma((v-1)/2)) with v = n - 1 (Hedges 1981).
    """
    v = n - 1
    return (
        mean / sd * np.exp(scipy.special.gammaln(v / 2) - scipy.special.gammaln((v - 1) / 2)) / np.sqrt(v / 2)
    )


def detectable(sd: float, n: int, power: float = 0.8) -> float:
    """Smallest true difference that a two-sided paired t test at 5 % finds with a given probability.

    Args:
        sd: standard deviation of the paired differences, as it was measured.
        n: pairs.
        power: that probability; 0.8 by convention (Cohen 1988).

    Returns:
        The difference, in the unit of `sd`; nan below three pairs.
    """
    from statsmodels.stats.power import tt_solve_power  # takes a second

    if n < FEWEST:
        return np.nan
    return sd * float(tt_solve_power(nobs=n, alpha=1 - CONFIDENCE, power=power))


def holm(p: Sequence[float]) -> np.ndarray:
    """P values that are adjusted for being shown together (Holm 1979); nan stays nan and does not count."""
    from statsmodels.stats.multitest import multipletests  # takes a second

    adjusted = np.array(p, dtype=float)
    known = np.isfinite(adjusted)
    if known.any():
        adjusted[known] = multipletests(adjusted[known], method="holm")[1]
    return adjusted


def difference(first: pd.Series, second: pd.Series) -> dict[str, object]:
    """Difference of means `first` - `second`: paired where seeds are shared, else that of two samples.

    Args:
        first, second: mean accuracy of each seed; the index is the seed.

    Returns:
        `mean`, `low`, `high` (95 %), `p` (two-sided t test), `seeds` (shared; 0 where unpaired), `dropped`
        (seeds of only one of them), `interval` (its name). nan and "none" where there are too few seeds.
    """
    differences = first - second
    if differences.notna().any():
        found = estimate(differences)
        named = found["interval"] if found["interval"] == NO_INTERVAL else f"95 % paired{SEEDS_NAME[4:]}"
        return {key: found[key] for key in ("mean", "low", "high", "p", "seeds", "dropped")} | {
            "interval": named
        }
    none = {"low": np.nan, "high": np.nan, "p": np.nan, "interval": NO_INTERVAL}
    found = {"mean": first.mean() - second.mean(), "seeds": 0, "dropped": 0} | none
    if min(len(first), len(second)) < FEWEST or not first.var() + second.var() > 0:
        return found
    test = scipy.stats.ttest_ind(first, second, equal_var=False)
    low, high = test.confidence_interval(CONFIDENCE)
    return found | {
        "low": low,
        "high": high,
        "p": test.pvalue,
        "interval": "95 % Welch t interval over distillation seeds",
    }


def ratio(first: pd.Series, second: pd.Series) -> dict[str, object]:
    """Ratio of two independent means with Fieller's 95 % interval (Fieller 1954).

    The degrees of freedom of first - ratio * second are those of Welch and Satterthwaite.

    Args:
        first, second: mean accuracy of each seed.

    Returns:
        `mean`, `low`, `high`, `interval`; bounds are nan with too few seeds on either side, without any
        spread, or where the second mean is not told apart from 0.
    """
    a, b = first.mean(), second.mean()
    found = {"mean": a / b, "low": np.nan, "high": np.nan, "interval": NO_INTERVAL}
    if min(len(first), len(second)) < FEWEST or not first.var() + second.var() > 0:
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


def side(row: pd.Series) -> str:
    """What an interval says of its mean: "above" 0, "below", "around" it, or "too few seeds"."""
    if not np.isfinite(row["high"] - row["low"]):
        return "too few seeds"
    return "above" if row["low"] > 0 else "below" if row["high"] < 0 else "around"


def as_cell(row: pd.Series) -> str:
    """Table cell: mean with its interval (none where there is none), then seeds x repeats.

    The interval is its half width, or its two ends where it is not symmetric.
    """
    return f"{row['mean']:.1f}{spread(row)} ({row['seeds']:.0f}×{row['repeats']:.0f})"


def spread(row: pd.Series, digits: int = 1) -> str:
    """The interval of an estimate as it follows the mean in a table; empty where there is none."""
    low, high = row["low"], row["high"]
    if not np.isfinite(high - low):
        return ""
    if " t interval" in row.get("interval", SEEDS_NAME) and abs(high + low - 2 * row["mean"]) < 1e-6:
        return f" ± {(high - low) / 2:.{digits}f}"
    return f" [{low:.{digits}f}–{high:.{digits}f}]"
