"""Result tables: what `statistics` says of each method on each network, arranged, with notes below."""

from collections.abc import Callable, Iterable

import numpy as np
import pandas as pd

from hglad.analysis.labels import method_label, method_place
from hglad.analysis.rendering import Table
from hglad.analysis.statistics import (
    NETWORKS_NAME,
    as_cell,
    difference,
    equal,
    holm,
    ratio,
    seed_means,
    spread,
    summarise,
)
from hglad.errors import HgladError
from hglad.experiments.store import Store, cell_columns, main_rows
from hglad.settings import suggestion

OF_THE_SET = ("objective", "generator", "variant", "method", "layer", "ipc", "set")
"""Marks that say what a set is; all others say how it was scored, and hold for its baselines too."""
INTERVALS = {"t": ("t", "seeds"), "bootstrap": ("bootstrap", "seeds"), "networks": ("t", "networks")}
NONE = "–"
RELATIVE = (", over random", ", % of full set")


def select(rows: pd.DataFrame, objective: str | None = None, ipc: int | None = None) -> pd.DataFrame:
    """Rows of sets and baselines of one objective and one number of images per class.

    What has no objective (baselines) or no ipc (the full set) stays.

    Raises:
        HgladError: no results of that objective or ipc, or two results for the same network.
    """
    rows = main_rows(rows)
    for column, value in (("objective", objective), ("ipc", ipc)):
        there = rows[column].dropna().unique()
        if value is not None and value not in there:
            known = suggestion(value, map(_text, there))
            raise HgladError(f"no results of {column} '{value}': {known}")
        rows = rows if value is None else rows[rows[column].isna() | (rows[column] == value)]
    _check_unique(rows)
    return rows


def _check_unique(rows: pd.DataFrame) -> None:
    place = [*cell_columns(rows), "seed", "repeat"]
    twice = rows[rows.duplicated(place, keep=False)]
    if len(twice):
        first = twice[_same(twice, twice.iloc[0], place)]
        keys = ", ".join(first["key"])
        raise HgladError(
            f"method '{first.iloc[0]['method']}', seed {first.iloc[0]['seed']} has several results ({keys}) "
            "from different settings: name the profile's .yaml file to get those that it plans"
        )


def cells(rows: pd.DataFrame, interval: str = "t") -> pd.DataFrame:
    """Every cell with its interval, its improvement over random images and its share of the full set.

    Args:
        rows: result rows, as `select` gives them.
        interval: "t" or "bootstrap" over distillation seeds, or "networks": over the networks of one set.

    Returns:
        One row per cell: its columns, those of `statistics.summarise`; `improvement` (points over random
        real images of the same ipc, scored in the same way), `_low`, `_high`, `_p`, `_p_holm` (over all
        cells), `_seeds` (shared with the baseline; 0: unpaired), `_dropped`, `_interval`; `share` (percent of
        the accuracy of the full set, scored in the same way), `_low`, `_high`, `_interval`. nan where the
        baseline is missing.

    Raises:
        HgladError: unknown interval.
    """
    if interval not in INTERVALS:
        raise HgladError(f"unknown interval '{interval}': {suggestion(interval, INTERVALS)}")
    cell = cell_columns(rows)
    table = summarise(rows, cell, *INTERVALS[interval])
    means = seed_means(rows, cell)
    scored = [name for name in cell if name not in OF_THE_SET]
    lines = [_relative(line, means, cell, scored) for _, line in table.iterrows()]
    relative = pd.DataFrame(lines, index=table.index)
    relative["improvement_p_holm"] = holm(relative["improvement_p"])
    return _sorted(table.join(relative), cell)


def _relative(line: pd.Series, means: pd.DataFrame, cell: list[str], scored: list[str]) -> dict[str, object]:
    own = _by_seed(means[_same(means, line, cell)])
    there = means[_same(means, line, scored) & means["objective"].isna()]
    random = _by_seed(there[(there["method"] == "random") & equal(there["ipc"], line["ipc"])])
    full = _by_seed(there[there["method"] == "full"])
    none = {"mean": np.nan, "low": np.nan, "high": np.nan, "interval": "none"}
    gain, part = none | {"p": np.nan, "seeds": 0, "dropped": 0}, none.copy()
    if len(random) and line["method"] not in ("random", "full"):
        gain = difference(own, random)
    if len(full) and line["method"] != "full":
        part = ratio(own, full)
        part |= {name: 100 * part[name] for name in ("mean", "low", "high")}
    return _prefixed("improvement", gain) | _prefixed("share", part)


def _by_seed(means: pd.DataFrame) -> pd.Series:
    return means.groupby("seed")["accuracy"].mean()


def _prefixed(name: str, estimate: dict[str, object]) -> dict[str, object]:
    return {name if key == "mean" else f"{name}_{key}": value for key, value in estimate.items()}


def _same(table: pd.DataFrame, line: pd.Series, names: Iterable[str]) -> np.ndarray:
    """Rows of a table that have the values of `line` in the named columns."""
    return np.logical_and.reduce([np.full(len(table), True), *(equal(table[n], line[n]) for n in names)])


def _sorted(table: pd.DataFrame, cell: list[str]) -> pd.DataFrame:
    order = ["method", "objective", *(name for name in cell if name not in ("method", "objective"))]
    return table.sort_values(order, key=_places(table), ignore_index=True, kind="stable")


def _places(table: pd.DataFrame) -> Callable[[pd.Series], pd.Series]:
    """Order of a column's values: methods as `labels` has them, the network with the most cells first,
    numbers by value, text by the alphabet; what has no mark first, but the missing ipc of the full set last.
    """
    frequent = table["network"].value_counts()

    def place(values: pd.Series) -> pd.Series:
        if values.name == "method":
            return values.map(method_place)
        if values.name == "network":
            return values.map(lambda name: (-frequent[name], name))
        missing = (1 if values.name == "ipc" else -1, values.dropna().min())
        return values.map(lambda value: missing if pd.isna(value) else (0, value))

    return place


def result_table(
    table: pd.DataFrame, rows: str = "method", columns: str = "network", relative: bool = False
) -> Table:
    """Arrange cells by two of their columns; further columns that tell cells apart follow the rows' own.

    Args:
        table: cells.
        rows: column of the cells that leads the rows.
        columns: column of the cells whose values are the columns.
        relative: add improvement over random images and share of the full set beside each accuracy.

    Raises:
        HgladError: a column that cells do not have, or the same one twice.
    """
    cell = list(table.columns[: table.columns.get_loc("mean")])
    for option, name in (("rows", rows), ("columns", columns)):
        if name not in cell:
            raise HgladError(f"unknown column '{name}' for {option}: {suggestion(name, cell)}")
    if rows == columns:
        raise HgladError(f"rows and columns are both '{rows}': expected two different ones")
    heads = _needed(table, rows, columns, cell)
    label = _label_of(columns)
    labels = list(dict.fromkeys(map(label, table[columns].sort_values(key=_places(table)))))
    lines: dict[tuple, dict[str, str]] = {}
    for _, line in table.iterrows():
        place = tuple(_label_of(name)(line[name]).removeprefix("ipc ") for name in heads)
        entry = lines.setdefault(place, dict(zip(heads, place, strict=True)))
        entry |= _entries(label(line[columns]), line, relative)
    extra = ["", *(RELATIVE if relative else ())]
    order = [*heads, *(f"{name}{text}" for name in labels for text in extra)]
    frame = pd.DataFrame(list(lines.values()), columns=order).fillna(NONE)
    empty = [name for name in order if name.endswith(RELATIVE) and (frame[name] == NONE).all()]
    frame = frame.drop(columns=empty)  # of the full set, which is not compared with itself
    beside = _relative_notes(table) if relative else []
    return Table(frame, (_accuracy_note(table), *beside, *_same_in_all(table, [rows, columns, *heads], cell)))


def _entries(label: str, line: pd.Series, relative: bool) -> dict[str, str]:
    entries = {label: as_cell(line)}
    if relative:
        for text, name, pattern in zip(RELATIVE, ("improvement", "share"), ("+.1f", ".1f"), strict=True):
            entries[f"{label}{text}"] = _estimate(line, name, pattern)
    return entries


def _estimate(line: pd.Series, name: str, pattern: str) -> str:
    if pd.isna(line[name]):
        return NONE
    parts = {"low": line[f"{name}_low"], "high": line[f"{name}_high"], "interval": line[f"{name}_interval"]}
    return f"{line[name]:{pattern}}".replace("-", "−") + spread(pd.Series(parts)).replace("-", "−")


def _needed(table: pd.DataFrame, rows: str, columns: str, cell: list[str]) -> list[str]:
    """Columns that the rows need: without one that is left out each row still has one value of it."""
    heads = [rows, *(name for name in cell if name not in (rows, columns))]
    for name in reversed(heads[1:]):
        fewer = [head for head in heads if head != name]
        groups = table.groupby(fewer, dropna=False)[name]
        if groups.nunique(dropna=False).max() == 1:
            heads = fewer
    return heads


def _label_of(column: str) -> Callable[[object], str]:
    labels = {
        "method": method_label,
        "objective": lambda name: NONE if pd.isna(name) else name.upper(),
        "ipc": lambda ipc: "all images" if pd.isna(ipc) else f"ipc {ipc:.0f}",
    }
    return labels.get(column, lambda value: NONE if pd.isna(value) else _text(value))


def _text(value: object) -> str:
    """A mark as text; numbers that were whole are so again."""
    return f"{value:g}" if isinstance(value, float) else str(value)


def _accuracy_note(table: pd.DataFrame) -> str:
    """What an accuracy in a cell is."""
    names = [name for name in dict.fromkeys(table["interval"]) if name != "none"]
    kinds = [f"{_sign(names)} {' or '.join(names)}"] if names else []
    if NETWORKS_NAME in names:
        kinds = [f"{kinds[0]}, which stands around the mean over all sets of the cell"]
    alone = (
        ["nothing behind a mean: too few values for an interval"] if "none" in set(table["interval"]) else []
    )
    return f"Test accuracy in %, {_counts_note(table)}; {'; '.join([*kinds, *alone])}."


def _counts_note(table: pd.DataFrame) -> str:
    """What n and m count: sets and networks, but of the full set, which nobody distils, networks alone."""
    full = table["method"] == "full"
    sets, texts = table[~full], []
    if len(sets):
        n, m = (_range(sets[name]) for name in ("seeds", "repeats"))
        texts.append(f"n × m: seeds × networks per set; n = {n}, m = {m}")
    if full.any():
        texts.append(f"of the full set n = {_range(table[full]['seeds'])} networks, each with its seed")
    over = "distillation seeds" if len(sets) else "networks"
    return f"mean over {over} ({'; '.join(texts)})"


def _relative_notes(table: pd.DataFrame) -> list[str]:
    """What stands beside an accuracy."""
    gains = [f"{name} interval" for name in ("paired t", "Welch t") if _any(table, "improvement", name)]
    notes = [
        "Over random: points over random real images of the same ipc on the same network"
        + (f", ± half width of the 95 % {' or '.join(gains)} over distillation seeds" if gains else "")
        + "; % of full set: ratio of mean accuracies"
        + (" [low–high: 95 % Fieller interval]." if _any(table, "share", "Fieller") else ".")
    ]
    dropped = int(table["improvement_dropped"].sum())
    if dropped:
        notes.append(f"Seeds without a partner, left out of paired differences: {dropped} over all cells.")
    return notes


def _sign(names: list[str]) -> str:
    return "[low–high]:" if any("bootstrap" in name for name in names) else "±: half width of the"


def _any(table: pd.DataFrame, name: str, text: str) -> bool:
    return table[f"{name}_interval"].str.contains(text).any()


def _range(values: pd.Series) -> str:
    low, high = values.min(), values.max()
    return f"{low:.0f}" if low == high else f"{low:.0f} to {high:.0f}"


def _same_in_all(table: pd.DataFrame, shown: list[str], cell: list[str]) -> list[str]:
    """The marks that are not shown: each has one value, where it has one at all."""
    texts = []
    for name in cell:
        values = table[name].dropna().unique()
        if name not in shown and len(values) == 1:
            texts.append(f"{name} {_text(values[0])}")
        elif name not in shown and len(values) > 1:
            pairs = table.dropna(subset=name).groupby("method", sort=False)[name].unique()
            texts += [f"{name} {', '.join(map(_text, v))} ({method_label(m)})" for m, v in pairs.items()]
    return [f"All cells that have one: {'; '.join(texts)}."] if texts else []


def provenance_notes(records: list[dict]) -> tuple[str, ...]:
    """Devices, commits and dates of evaluations, for below a table."""
    devices = sorted({record["device"] for record in records})
    commits = sorted({commit_text(record) for record in records})
    days = sorted(record["started"][:10] for record in records)
    dates = days[0] if days[0] == days[-1] else f"{days[0]} to {days[-1]}"
    return (f"Device: {'; '.join(devices)}. Code: {', '.join(commits)}. Computed: {dates}.",)


def commit_text(record: dict) -> str:
    """Commit of a provenance record, and whether it held all of the code."""
    if record["commit"] is None:
        return "outside version control"
    return f"commit {record['commit'][:7]}" + ("" if record["clean"] else " with uncommitted changes")


def published_table(comparison: pd.DataFrame) -> Table:
    """Own numbers beside published ones, each with its source and what differs.

    Args:
        comparison: as `published.beside_published` returns it.
    """
    if comparison.empty:
        return Table(pd.DataFrame(), ("Nothing is on record as published for these results.",))
    lines = [
        {
            "method": method_label(line["method"]),
            "objective": _label_of("objective")(line["objective"]),
            "ipc": _label_of("ipc")(line["ipc"]).removeprefix("ipc "),
            "evaluation": line["evaluation"],
            "ours": as_cell(line),
            "published": f"{line['published_method']}: {_published(line)}",
            "source": line["source"],
            "what differs": "; ".join(filter(None, (line["spread"], line["differences"]))),
        }
        | {
            name: _label_of(name)(line[name])
            for name in comparison.columns[: comparison.columns.get_loc("mean")]
            if name not in ("method", "objective", "ipc") and comparison[name].nunique() > 0
        }
        for _, line in comparison.iterrows()
    ]
    return Table(pd.DataFrame(lines), ("Published numbers come from several papers and protocols.",))


def published_beside_ours(numbers: pd.DataFrame) -> Table:
    """Published numbers that have one of ours beside them, with what differs.

    Args:
        numbers: as `published.every_number` or `published.beside_published` returns it.
    """
    ours = numbers[numbers["missing"] == ""] if "missing" in numbers else numbers
    lines = [
        _published_place(line)
        | {
            "published": _published(line),
            "ours": as_cell(line),
            "what differs": line["differences"] or NONE,
            "source": line["source"],
        }
        for _, line in ours.iterrows()
    ]
    return _without_one_evaluation(lines, _spread_notes(ours) if lines else [])


def published_alone(numbers: pd.DataFrame) -> Table:
    """Published numbers without one of ours, each with the reason why; `numbers` as above."""
    lines = [
        _published_place(line)
        | {"published": _published(line), "why not here": line["missing"], "source": line["source"]}
        for _, line in numbers[numbers["missing"] != ""].iterrows()
    ]
    return _without_one_evaluation(lines, [])


def _published_place(line: pd.Series) -> dict:
    return {
        "published method": line["published_method"],
        "objective": _label_of("objective")(line["objective"]),
        "ipc": "all" if pd.isna(line["ipc"]) else str(line["ipc"]).removesuffix(".0"),
        "evaluation": line["evaluation"],
    }


def _spread_notes(ours: pd.DataFrame) -> list[str]:
    """What is behind the ± of both sides."""
    notes = [f"Our ± is a {kind}." for kind in ours["interval"].unique() if kind != "none"]
    for kind, lines in ours[ours["published_sd"].notna()].groupby("published_spread", sort=False):
        places = [_published_place(line) for _, line in lines.iterrows()]
        names = dict.fromkeys(f"{place['published method']} ({place['objective']})" for place in places)
        whose = ", ".join(name.removesuffix(f" ({NONE})") for name in names)
        notes.append(f"The published ± is {kind}: {whose}.")
    return notes


def _without_one_evaluation(lines: list[dict], notes: list[str]) -> Table:
    """The table; an evaluation that all rows share is a note in place of a column."""
    frame = pd.DataFrame(lines)
    if len(frame) > 1 and frame["evaluation"].nunique() == 1:
        notes = [f"Evaluation: {frame['evaluation'][0]}.", *notes]
        frame = frame.drop(columns="evaluation")
    return Table(frame, tuple(notes))


def _published(line: pd.Series) -> str:
    spread = "" if pd.isna(line["published_sd"]) else f" ± {line['published_sd']:.1f}"
    return f"{line['published']:.1f}{spread}"


def notes_of(store: Store, rows: pd.DataFrame) -> tuple[str, ...]:
    """Where the numbers of result rows come from."""
    return provenance_notes(store.provenance(list(dict.fromkeys(rows["key"]))))
