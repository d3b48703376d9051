"""Result rows on disk, and what is said of them: means, intervals, comparison of two sets of results."""

from pathlib import Path
from typing import Self

import numpy as np
import pandas as pd
from scipy import stats

from hglad.errors import HgladError
from hglad.paths import PROJECT, results_folder
from hglad.settings import suggestion
from hglad.storage import read_json, write_json

CONFIDENCE = 0.95
CELL = [
    "objective",
    "generator",
    "variant",
    "method",
    "layer",
    "ipc",
    "network",
]  # what a table cell is about


class Store:
    """Folder of a profile's results; a result is there when its file is, under its fingerprint.

    `sets/` holds folders, `classifiers/` weights, `evaluations/` and `distances/` JSON with provenance.
    """

    def __init__(self, root: Path | str):
        self.root = Path(root)

    @classmethod
    def of_profile(cls, profile: str, folder: Path | str | None = None) -> Self:
        """Results of a profile in `folder`, by default where `hglad.paths.results_folder` says."""
        return cls(folder or results_folder(profile))

    def set_folder(self, key: str) -> Path:
        """Folder of a distilled set."""
        return self.root / "sets" / key

    def experts_folder(self, key: str) -> Path:
        """Folder of a set of expert trajectories; large, not committed."""
        return self.root / "experts" / key

    def classifier_file(self, key: str) -> Path:
        """Weights of a classifier behind a metric."""
        return self.root / "classifiers" / f"{key}.safetensors"

    def evaluation_file(self, key: str) -> Path:
        """Rows of an evaluation."""
        return self.root / "evaluations" / f"{key}.json"

    def distances_file(self, key: str) -> Path:
        """Distances of the iterates of a run by several metrics."""
        return self.root / "distances" / f"{key}.json"

    def write_rows(self, key: str, frame: pd.DataFrame, provenance: dict) -> None:
        """Keep the rows of an evaluation with their provenance."""
        write_json(self.evaluation_file(key), {"rows": frame.to_dict("records"), "provenance": provenance})

    def rows(self, keys: list[str] | None = None) -> pd.DataFrame:
        """Tidy rows of the named evaluations (each once), or of all of them.

        Raises:
            HgladError: no evaluations in the folder, or a damaged one.
        """
        if keys is None:
            keys = sorted(path.stem for path in (self.root / "evaluations").glob("*.json"))
        if not keys:
            raise HgladError(f"no results in {self.root}: expected some from hglad run")
        frames = [pd.DataFrame(self._part(key, "rows")).assign(key=key) for key in dict.fromkeys(keys)]
        return pd.concat(frames, ignore_index=True)

    def provenance(self, keys: list[str]) -> list[dict]:
        """Provenance of the named evaluations."""
        return [self._part(key, "provenance") for key in keys]

    def _part(self, key: str, part: str) -> list | dict:
        file = self.evaluation_file(key)
        content = read_json(file)
        if not isinstance(content, dict) or part not in content:
            raise HgladError(f"{file} has no {part}: delete it to have it made again")
        return content[part]


def seed_means(rows: pd.DataFrame, by: list[str]) -> pd.DataFrame:
    """Mean accuracy of each distillation seed over its evaluation repeats, with the number of repeats."""
    groups = rows.groupby([*by, "seed"], sort=False, dropna=False)["accuracy"]
    return groups.agg(accuracy="mean", repeats="count").reset_index()


def published(dataset: str, resolution: int, ipc: int) -> pd.DataFrame:
    """Accuracies that papers report for a ConvNet of the surrogate's kind, from `data/published.csv`.

    Returns:
        Columns of the file; `source` names the paper. Empty where nothing was published.
    """
    table = pd.read_csv(PROJECT / "data" / "published.csv", dtype={"ipc": str})
    same = table["evaluation"].str.startswith("same architecture")
    chosen = (table["dataset"] == dataset) & (table["resolution"] == resolution) & (table["ipc"] == str(ipc))
    return table[same & chosen]


def summarise(rows: pd.DataFrame, by: list[str]) -> pd.DataFrame:
    """Mean accuracy over distillation seeds with a t interval.

    The repeats of one distilled set are averaged first, so the interval speaks of new distillation runs, not
    of new networks on the same set.

    Returns:
        One row per group: `mean`, `low`, `high` (95 %), `sd` over seeds, `seeds` (n) and `repeats` (m).
    """
    means = seed_means(rows, by).groupby(by, sort=False, dropna=False)
    table = means.agg(
        mean=("accuracy", "mean"),
        sd=("accuracy", "std"),
        seeds=("accuracy", "count"),
        repeats=("repeats", "max"),
    ).reset_index()
    half = t_factor(table["seeds"]) * table["sd"] / np.sqrt(table["seeds"])
    return table.assign(low=table["mean"] - half, high=table["mean"] + half)


def t_factor(n: pd.Series) -> np.ndarray:
    """Two-sided 95 % quantile of Student's t with n - 1 degrees of freedom; nan for a single value."""
    return stats.t.ppf((1 + CONFIDENCE) / 2, np.where(n > 1, n - 1, np.nan))


def paired(rows: pd.DataFrame, first: str, second: str, by: list[str]) -> pd.DataFrame:
    """Difference `first` - `second` in accuracy over shared distillation seeds, with a paired t interval.

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
    difference = (wide[first] - wide[second]).dropna().rename("difference").reset_index()
    table = (
        difference.groupby(by, sort=False)["difference"]
        .agg(mean="mean", sd="std", seeds="count")
        .reset_index()
    )
    half = t_factor(table["seeds"]) * table["sd"] / np.sqrt(table["seeds"])
    return table.assign(low=table["mean"] - half, high=table["mean"] + half, comparison=f"{first} - {second}")


def as_cell(row: pd.Series) -> str:
    """Table cell: mean and half width of the interval (none for one seed), then seeds x repeats."""
    half = f" ± {(row['high'] - row['low']) / 2:.1f}" if row["seeds"] > 1 else ""
    return f"{row['mean']:.1f}{half} ({row['seeds']:.0f}×{row['repeats']:.0f})"


def compare(recomputed: pd.DataFrame, committed: pd.DataFrame) -> pd.DataFrame:
    """Hold recomputed means against the committed seeds.

    A cell agrees when the recomputed mean lies in the committed seeds' 95 % prediction interval for the mean
    of as many new seeds. Where few seeds happen to be equal, the interval still is as wide as one step of the
    accuracy, which is one test image.

    Returns:
        One row per cell that both have: committed and recomputed mean, interval, `verdict`.

    Raises:
        HgladError: no cell that both have.
    """
    old, new = (summarise(_main_rows(rows), CELL) for rows in (committed, recomputed))
    table = old.merge(new, on=CELL, suffixes=("", "_new"))
    if table.empty:
        raise HgladError("the two sets of results share no cell: expected results of the same profile")
    half = t_factor(table["seeds"]) * table["sd"] * np.sqrt(1 / table["seeds"] + 1 / table["seeds_new"])
    half = np.maximum(half, _accuracy_step(committed))
    low, high = table["mean"] - half, table["mean"] + half
    inside = table["mean_new"].sub(table["mean"]).abs() <= half + 1e-9
    compared = table[CELL].assign(
        committed=table["mean"].round(2),
        recomputed=table["mean_new"].round(2),
        interval=[f"{a:.2f} to {b:.2f}" if a <= b else "-" for a, b in zip(low, high, strict=True)],
        verdict=np.where(table["seeds"] < 2, "one seed only", np.where(inside, "inside", "OUTSIDE")),
    )
    return compared.sort_values(CELL, ignore_index=True)


def _accuracy_step(rows: pd.DataFrame) -> float:
    """Smallest difference between two accuracies that occurs; 0 where all are equal."""
    steps = np.diff(np.unique(rows["accuracy"].round(3)))
    return steps.min() if len(steps) else 0.0


def _main_rows(rows: pd.DataFrame) -> pd.DataFrame:
    """Rows of distilled sets and baselines, without those of single iterates; empty cells as text."""
    if "iterate" in rows:
        rows = rows[rows["iterate"].isna()]
    marks = {key: None for key in ("generator", "variant") if key not in rows}
    return rows.assign(**marks).fillna(dict.fromkeys(("objective", "generator", "variant", "layer"), "-"))


def verdict(table: pd.DataFrame) -> str:
    """One line about a comparison."""
    judged = table[table["verdict"] != "one seed only"]
    inside = int((judged["verdict"] == "inside").sum())
    text = f"{inside} of {len(judged)} recomputed means lie inside the committed 95 % prediction intervals"
    return text if inside == len(judged) else f"{text}; about 1 in 20 may fall outside by chance"
