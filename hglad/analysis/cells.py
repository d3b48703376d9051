"""Cells of a table from tidy rows: means beside random images and the full set; recomputed ones compared."""

import json
from collections.abc import Iterable, Mapping
from pathlib import Path

import numpy as np
import pandas as pd

from hglad import __version__
from hglad.analysis import method_place
from hglad.analysis.statistics import (
    FEWEST,
    INTERVALS,
    difference,
    equal,
    holm,
    ratio,
    seed_means,
    summarize,
    t_factor,
)
from hglad.errors import HgladError
from hglad.settings import suggestion
from hglad.storage import write_whole

CELL = ["objective", "generator", "variant", "method", "layer", "ipc", "network"]
"""What a table cell is about; further columns of marks belong to it as well, see `cell_columns`."""
NOT_CELL = {"seed", "repeat", "accuracy", "key", "iterate", "stage", "step", "split_point"}
OF_THE_SET = ("objective", "generator", "variant", "method", "layer", "ipc", "set")
"""Marks that say what a set is; all others say how it was scored, and hold for its baselines too."""
DESCRIPTION = (
    "Test accuracy in percent of networks trained on distilled or real sets: one row per set, network and "
    "repeat. seed: distillation seed; repeat: network of that seed; ipc: images per class (missing: all); "
    "iterate: place in the search where not the selected images were scored; training, network_options: JSON."
)


def main_rows(found: pd.DataFrame) -> pd.DataFrame:
    """Rows of distilled sets and baselines, without those of single iterates."""
    return found[found["iterate"].isna()] if "iterate" in found else found


def per_objective(found: pd.DataFrame) -> pd.DataFrame:
    """Rows with those of the baselines, which have no objective, under every objective."""
    names = list(found["objective"].dropna().unique())
    parts = [
        found[equal(found["objective"], name) | found["objective"].isna()].assign(objective=name)
        for name in names
    ]
    return pd.concat(parts, ignore_index=True) if parts else found


def cell_columns(*frames: pd.DataFrame) -> list[str]:
    """Columns that say which cell a row belongs to: those of `CELL` that occur, then every other mark.

    A mark is a column of text or truth values, such as `augmentation`; further numbers are measurements.
    """

    def is_mark(table: pd.DataFrame, name: str) -> bool:
        values = table[name].dropna()
        return name not in (*CELL, *NOT_CELL) and len(values) > 0 and values.map(type).isin([str, bool]).all()

    present = [name for name in CELL if any(name in table for table in frames)]
    return present + list(dict.fromkeys(name for table in frames for name in table if is_mark(table, name)))


def select(found: pd.DataFrame, objective: str | None = None, ipc: int | None = None) -> pd.DataFrame:
    """Rows of sets and baselines of one objective and one number of images per class.

    What has no objective (baselines) or no ipc (the full set) stays.

    Raises:
        HgladError: no results of that objective or ipc, or two results for the same network.
    """
    found = main_rows(found)
    for column, value in (("objective", objective), ("ipc", ipc)):
        there = [
            f"{each:g}" if isinstance(each, float) else str(each) for each in found[column].dropna().unique()
        ]
        if value is not None and str(value) not in there:
            raise HgladError(f"no results of {column} '{value}': {suggestion(value, there)}")
        found = found if value is None else found[found[column].isna() | (found[column] == value)]
    place = [*cell_columns(found), "seed", "repeat"]
    twice = found[found.duplicated(place, keep=False)]
    if len(twice):
        first = twice[_same(twice, twice.iloc[0], place)]
        raise HgladError(
            f"method '{first.iloc[0]['method']}', seed {first.iloc[0]['seed']} has several results "
            f"({', '.join(first['key'])}) from different settings: name the profile's .yaml file to get "
            "those that it plans"
        )
    return found


def cells(found: pd.DataFrame, interval: str = "t") -> pd.DataFrame:
    """Every cell with its interval, its improvement over random images and its share of the full set.

    Args:
        found: result rows, as `select` gives them.
        interval: "t" or "bootstrap" over distillation seeds, or "networks": over the networks of one set.

    Returns:
        One row per cell: its columns, those of `statistics.summarize`; `improvement` (points over random
        real images of the same ipc, scored in the same way), `_low`, `_high`, `_p`, `_p_holm` (over all
        cells), `_seeds` (shared with the baseline; 0: unpaired), `_dropped`, `_interval`; `share` (percent of
        the accuracy of the full set, scored in the same way), `_low`, `_high`, `_interval`. nan where the
        baseline is missing.

    Raises:
        HgladError: unknown interval.
    """
    if interval not in INTERVALS:
        raise HgladError(f"unknown interval '{interval}': {suggestion(interval, INTERVALS)}")
    cell = cell_columns(found)
    table, means = summarize(found, cell, *INTERVALS[interval]), seed_means(found, cell)
    scored = [name for name in cell if name not in OF_THE_SET]
    lines = [_relative(line, means, cell, scored) for _, line in table.iterrows()]
    relative = pd.DataFrame(lines, index=table.index)
    relative["improvement_p_holm"] = holm(relative["improvement_p"])
    order = ["method", "objective", *(name for name in cell if name not in ("method", "objective"))]
    return table.join(relative).sort_values(order, key=_places(table), ignore_index=True, kind="stable")


def _relative(line: pd.Series, means: pd.DataFrame, cell: list[str], scored: list[str]) -> dict[str, object]:
    def by_seed(wanted: np.ndarray) -> pd.Series:
        return means[wanted].groupby("seed")["accuracy"].mean()

    there = _same(means, line, scored) & means["objective"].isna()
    own = by_seed(_same(means, line, cell))
    random = by_seed(there & (means["method"] == "random") & equal(means["ipc"], line["ipc"]))
    full = by_seed(there & (means["method"] == "full"))
    none = {"mean": np.nan, "low": np.nan, "high": np.nan, "interval": "none"}
    gain, share = none | {"p": np.nan, "seeds": 0, "dropped": 0}, none
    if len(random) and line["method"] not in ("random", "full"):
        gain = difference(own, random)
    if len(full) and line["method"] != "full":
        share = ratio(own, full)
        share = share | {name: 100 * share[name] for name in ("mean", "low", "high")}
    parts = {"improvement": gain, "share": share}
    named = ((name, key, value) for name, found in parts.items() for key, value in found.items())
    return {name if key == "mean" else f"{name}_{key}": value for name, key, value in named}


def _same(table: pd.DataFrame, line: pd.Series, names: Iterable[str]) -> np.ndarray:
    """Rows of a table that have the values of `line` in the named columns."""
    return np.logical_and.reduce([np.full(len(table), True), *(equal(table[n], line[n]) for n in names)])


def _places(table: pd.DataFrame):
    """Order of a column's values: methods as `LABELS` has them, the network with the most cells first, the
    rest by value; what has no mark first, but the missing ipc of the full set last.
    """
    frequent, first = table["network"].value_counts(), list(dict.fromkeys(table["network"]))

    def place(values: pd.Series) -> pd.Series:
        if values.name == "method":
            return values.map(method_place)
        if values.name == "network":
            return values.map(lambda name: (-frequent[name], first.index(name)))
        missing = (1 if values.name == "ipc" else -1, values.dropna().min())
        return values.map(lambda value: missing if pd.isna(value) else (0, value))

    return place


# Recomputed against committed results


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
    cell = [*CELL, *(name for name in cell_columns(committed, recomputed) if name not in CELL)]
    old, new = (summarize(_as_text(main_rows(each), cell), cell) for each in (committed, recomputed))
    table = old.merge(new, on=cell, suffixes=("", "_new"))
    if table.empty:
        raise HgladError("the two sets of results share no cell: expected results of the same profile")
    half = t_factor(table["seeds"]) * table["sd"] * np.sqrt(1 / table["seeds"] + 1 / table["seeds_new"])
    accuracies = np.diff(np.unique(committed["accuracy"].round(3)))
    half = np.maximum(half, accuracies.min() if len(accuracies) else 0.0).where(table["seeds"] >= FEWEST)
    low, high = table["mean"] - half, table["mean"] + half
    inside = table["mean_new"].sub(table["mean"]).abs() <= half + 1e-9
    compared = table[cell].assign(
        committed=table["mean"].round(2),
        recomputed=table["mean_new"].round(2),
        interval=[f"{a:.2f} to {b:.2f}" if a <= b else "-" for a, b in zip(low, high, strict=True)],
        verdict=np.where(half.isna(), "too few seeds", np.where(inside, "inside", "OUTSIDE")),
    )
    return compared.sort_values(cell, ignore_index=True)


def _as_text(found: pd.DataFrame, cell: list[str]) -> pd.DataFrame:
    """Cells that are empty as text, so that they equal each other; ipc and network always are there."""
    found = found.assign(**{name: None for name in cell if name not in found})
    marks = [name for name in cell if name not in ("method", "ipc", "network")]
    return found.astype(dict.fromkeys(marks, object)).fillna(dict.fromkeys(marks, "-"))


def verdict(table: pd.DataFrame) -> str:
    """One line about a comparison."""
    judged = table[table["verdict"] != "too few seeds"]
    inside = int((judged["verdict"] == "inside").sum())
    text = f"{inside} of {len(judged)} recomputed means lie inside the committed 95 % prediction intervals"
    return text if inside == len(judged) else f"{text}; about 1 in 20 may fall outside by chance"


# Rows for other tools


def export_rows(store, keys: Mapping[str, dict] | list[str] | None = None) -> pd.DataFrame:
    """Result rows, each with the provenance of its evaluation.

    Returns:
        The columns of the rows and `key`; `set_fingerprint`, `data_hash`, `commit`, `clean`, `hglad`,
        `python`, a column per package (`torch`, ...), `device`, `started` (UTC), `seconds` (of the whole
        evaluation), `peak_memory_mib`; `training`, `network_options` and `algorithms` as JSON.
    """
    found = store.rows(keys)
    keys = list(dict.fromkeys(found["key"]))
    records = pd.DataFrame(store.provenance(keys)).assign(key=keys).rename(columns={"set": "set_fingerprint"})
    texts = {
        "training": [json.dumps(settings["training"]) for settings in records["settings"]],
        "network_options": [json.dumps(settings["network"]) for settings in records["settings"]],
        "algorithms": [json.dumps(record.get("algorithms") or {}) for record in store.provenance(keys)],
    }
    names = ["key", "set_fingerprint", "data_hash", "commit", "clean", "hglad", "python"]
    measured = records[["device", "started", "seconds", "peak_memory_mib"]]
    parts = [records[names], pd.DataFrame(list(records["packages"])), measured, pd.DataFrame(texts)]
    records = pd.concat(parts, axis="columns")
    return found.merge(records, on="key", suffixes=("", "_of_evaluation")).convert_dtypes()


def check_suffix(path: Path | str) -> str:
    """Suffix of a file to export to; raises `HgladError` when it is neither .parquet nor .csv."""
    if Path(path).suffix not in (".parquet", ".csv"):
        raise HgladError(f"cannot export to {path}: expected a name that ends in .parquet or .csv")
    return Path(path).suffix


def write_rows(found: pd.DataFrame, path: Path | str) -> None:
    """Write rows as Parquet (with a description in the file's metadata) or CSV, by the suffix of `path`.

    Raises:
        HgladError: another suffix, Parquet without pyarrow, or a place that cannot be written.
    """
    suffix = check_suffix(path)
    with write_whole(path) as draft:
        if suffix == ".csv":
            return found.to_csv(draft, index=False)
        try:
            import pyarrow
            from pyarrow import parquet
        except ImportError:
            raise HgladError(f"{draft.name} needs pyarrow: pip install pyarrow, or export to .csv") from None
        table = pyarrow.Table.from_pandas(found, preserve_index=False)
        about = {b"description": DESCRIPTION.encode(), b"software": f"hglad {__version__}".encode()}
        parquet.write_table(table.replace_schema_metadata({**table.schema.metadata, **about}), draft)
