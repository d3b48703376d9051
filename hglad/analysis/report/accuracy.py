"""Accuracy of the methods: by ipc, by network, by augmentation, and the gap between networks."""

import pandas as pd

from hglad.analysis.labels import method_place
from hglad.analysis.laboratory import Laboratory
from hglad.analysis.report.show import Table
from hglad.analysis.report.texts import NONE, interval_text, method_name, per_class, signed
from hglad.analysis.statistics import as_cell, seed_means, summarise


def main_table(rows: pd.DataFrame) -> Table:
    """Accuracy of each method at each ipc; as `results.as_cell` writes it."""
    return _method_table(rows.fillna({"ipc": float("inf")}), "ipc", _ipc_column)


def network_table(rows: pd.DataFrame) -> Table:
    """Accuracy of each method on each architecture."""
    return _method_table(rows, "network", str)


def _method_table(rows: pd.DataFrame, column: str, label) -> Table:
    summary = summarise(rows.fillna({"objective": ""}), ["objective", "method", column])
    summary = summary.assign(cell=summary.apply(as_cell, axis=1))
    columns = list(dict.fromkeys(rows[column])) if column == "network" else sorted(rows[column].unique())
    wide = summary.pivot_table(
        index=["objective", "method"], columns=column, values="cell", aggfunc="first", sort=False
    )
    order = sorted(wide.index, key=lambda pair: (method_place(pair[1]), pair[0]))
    wide = wide.loc[order, columns]
    wide.index = pd.Index([method_name(*pair, many=_many_objectives(rows)) for pair in order], name="method")
    wide.columns = [label(value) for value in columns]
    return Table(wide.reset_index(), wrapped=len(columns) > 4)  # more are wider than a page


def _many_objectives(rows: pd.DataFrame) -> bool:
    return rows["objective"].dropna().nunique() > 1


def _ipc_column(ipc: float) -> str:
    return "all images" if ipc == float("inf") else per_class(ipc)


def usual_rows(rows: pd.DataFrame) -> pd.DataFrame:
    """Rows under the profile's own augmentation."""
    return rows[rows["augmentation"].isna()] if "augmentation" in rows else rows


def augmentation_table(laboratory: Laboratory) -> Table:
    """Accuracy of each method by the augmentation of the training on its sets, at each ipc.

    The first column is the profile's; an objective may have another of its own.
    """
    rows = laboratory.rows[laboratory.rows["method"] != "full"]
    rows = rows.assign(augmentation=_augmentations(laboratory, rows)).fillna({"objective": ""})
    usual = _augmentation(laboratory)
    summary = summarise(rows, ["ipc", "method", "objective", "augmentation"])
    summary = summary.assign(cell=summary.apply(as_cell, axis=1))
    index = ["ipc", "method", "objective"]
    wide = summary.pivot_table(index=index, columns="augmentation", values="cell", aggfunc="first")
    order = sorted(wide.index, key=lambda place: (place[0], method_place(place[1]), place[2]))
    others = [column for column in dict.fromkeys(rows["augmentation"]) if column != usual]
    wide = wide.loc[order, [usual, *others]].rename_axis(columns=None).reset_index()
    many = rows["objective"].replace("", None).nunique() > 1
    names = [method_name(row["objective"], row["method"], many) for _, row in wide.iterrows()]
    wide = wide.drop(columns=["method", "objective"]).assign(ipc=wide["ipc"].map("{:.0f}".format))
    wide.insert(1, "method", names)
    return Table(wide.fillna(NONE), wrapped=True)


def _augmentations(laboratory: Laboratory, rows: pd.DataFrame) -> pd.Series:
    """Augmentation of the training behind each row: marked, or that of its objective, or the profile's."""
    objectives = rows["objective"].where(rows["objective"].notna(), None)
    own = objectives.map(lambda objective: _augmentation(laboratory, objective))
    return rows["augmentation"].fillna(own) if "augmentation" in rows else own


def _augmentation(laboratory: Laboratory, objective: str | None = None) -> str:
    main, *_ = laboratory.profile.networks
    return laboratory.profile.training(main, objective or None).augmentation.replace("_", ", ") or "none"


def network_gaps(rows: pd.DataFrame, main: str) -> pd.DataFrame:
    """Accuracy on the main network minus the mean accuracy on the others, per method; paired over seeds.

    Returns:
        Rows of `statistics.summarise` by `objective` and `method`; empty with a single network.
    """
    means = seed_means(rows.fillna({"objective": ""}), ["objective", "method", "network"])
    keys = ["objective", "method", "seed"]
    on_main = means[means["network"] == main].set_index(keys)["accuracy"]
    others = means[means["network"] != main].groupby(keys)["accuracy"].mean()
    gaps = (on_main - others).dropna().rename("accuracy").reset_index()
    return summarise(gaps, ["objective", "method"])


def gap_table(gaps: pd.DataFrame) -> Table:
    """Gap between the main network and the others, in points."""
    many = gaps["objective"].replace("", None).dropna().nunique() > 1
    gaps = gaps.sort_values("method", key=lambda names: names.map(method_place), kind="stable")
    cells = {
        "method": [method_name(row["objective"], row["method"], many) for _, row in gaps.iterrows()],
        "gap (points)": gaps["mean"].map(signed),
        "95 % interval": [interval_text(row) for _, row in gaps.iterrows()],
        "seeds": gaps["seeds"],
    }
    return Table(pd.DataFrame(cells))
