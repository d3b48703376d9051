"""Tables of finished cells with what is said below them: as HTML on a page, text, Markdown, LaTeX or CSV."""

import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from html import escape
from pathlib import Path
from zlib import crc32

import numpy as np
import pandas as pd

from hglad.analysis import NONE, frame, method_label, metric_label, signed
from hglad.analysis.cells import cells, per_objective, select
from hglad.analysis.published import images_of, numbers
from hglad.analysis.statistics import (
    INTERVALS,
    NETWORKS_NAME,
    NO_INTERVAL,
    as_cell,
    bootstrap_interval,
    paired,
    side,
    spread,
)
from hglad.errors import HgladError
from hglad.priors import prior_card, prior_hash
from hglad.provenance import code_text, dates, provenance_note
from hglad.settings import suggestion
from hglad.storage import write_whole

FORMATS = {".txt": "text", ".md": "markdown", ".tex": "latex", ".csv": "csv"}
RELATIVE = (", over random", ", % of full set")
LATEX = {character: f"\\{character}" for character in "&%$#_{}"} | {
    "\\": r"\textbackslash{}",
    "~": r"\textasciitilde{}",
    "^": r"\textasciicircum{}",
    "±": r"$\pm$",
    "×": r"$\times$",
    "−": "$-$",
    "–": "--",
}
READERS = {  # how columns of the tidy frame read, whatever table they stand in
    "method": method_label,
    "metric": metric_label,
    "objective": lambda name: name.upper(),
    "ipc": lambda ipc: ipc if isinstance(ipc, str) else f"{ipc:g}",
}


@dataclass(frozen=True)
class Table:
    """A table with what is said below it; a notebook shows it as HTML."""

    frame: pd.DataFrame
    """Values, or finished cells."""
    notes: tuple[str, ...] = ()
    """What the numbers are and where they come from."""
    formats: Mapping[str, str | Callable] = field(default_factory=dict)
    """Format such as `{:.1f}`, or function to text, by column; `READERS` hold for the others."""

    @property
    def cells(self) -> pd.DataFrame:
        """Every cell as text; a dash where a value is missing."""
        formats = {name: self.formats.get(name, READERS.get(name, "{}")) for name in self.frame}
        apply = {name: each.format if isinstance(each, str) else each for name, each in formats.items()}
        columns = {
            name: [NONE if pd.isna(value) else str(apply[name](value)) for value in self.frame[name]]
            for name in self.frame
        }
        return pd.DataFrame(columns, columns=self.frame.columns)

    def _repr_html_(self) -> str:
        if self.frame.empty:
            return _list(self.notes)
        shown = self.cells
        wide = shown.map(len).max().clip(lower=[len(str(name)) for name in shown]).sum() > 100
        rules = [
            {
                "selector": "td, th",
                "props": f"text-align: left; white-space: {'normal' if wide else 'nowrap'}",
            }
        ]
        style = (
            shown.style.hide(axis="index").format(escape="html").format_index(escape="html", axis="columns")
        )
        style = style.set_table_styles(rules).set_uuid(f"{crc32(repr(self).encode()):x}")
        return style.set_td_classes(shown.map(lambda _: "")).to_html(cell_ids=False) + _list(self.notes)

    def __repr__(self) -> str:
        return "" if self.frame.empty else self.cells.to_string(index=False)

    def text(self, form: str) -> str:
        """As "text", "markdown" or "latex" (packages booktabs and inputenc)."""
        if self.frame.empty:
            return "".join(f"{'% ' if form == 'latex' else ''}{note}\n" for note in self.notes)
        if form == "latex":
            shown = self.cells.rename(columns=latex).map(latex)
            columns = "".join("p{4cm}" if shown[name].str.len().max() > 40 else "l" for name in shown)
            notes = " ".join(map(latex, self.notes))
            styled = shown.style.hide(axis="index")
            return styled.to_latex(
                column_format=columns, hrules=True, caption=notes, position_float="centering"
            )
        escaped = self.cells.map(lambda text: text.replace("|", r"\|"))
        body = repr(self) if form == "text" else escaped.to_markdown(index=False, disable_numparse=True)
        return "\n".join([body, "", *self.notes, ""])


@dataclass(frozen=True)
class Sentences:
    """Sentences that follow from numbers by rule, one below the other."""

    lines: Sequence[str]
    kind: str = "sentences"
    """Class of the HTML."""

    def _repr_html_(self) -> str:
        return f'<div class="{self.kind}">{_list(self.lines)}</div>'

    def __repr__(self) -> str:
        return "\n".join(self.lines)


def _list(lines: Iterable[str]) -> str:
    items = "".join(f"<li>{escape(line)}</li>" for line in lines)
    return f"<ul>{items}</ul>" if items else ""


def latex(text: str) -> str:
    """Text with LaTeX's own characters escaped, and the signs of cells as LaTeX writes them."""
    return re.sub("|".join(map(re.escape, LATEX)), lambda found: LATEX[found[0]], text)


# Accuracies


def result_table(
    table: pd.DataFrame, rows: str = "method", columns: str = "network", relative: bool = False
) -> Table:
    """Arrange cells by two of their columns; further columns that tell cells apart follow the rows' own.

    Args:
        table: as `cells` gives it.
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
    heads = [rows, *(name for name in cell if name not in (rows, columns))]
    for name in reversed(
        heads[1:]
    ):  # needed only where rows that are else the same have several values of it
        fewer = [head for head in heads if head != name]
        if table.groupby(fewer, dropna=False)[name].nunique(dropna=False).max() == 1:
            heads = fewer
    order = table.sort_values(columns, kind="stable") if columns == "ipc" else table
    titles = list(dict.fromkeys(_title(columns, value) for value in order[columns]))
    lines: dict[tuple, dict[str, str]] = {}
    for _, line in table.iterrows():
        place = tuple(_read(name, line[name]) for name in heads)
        entry = lines.setdefault(place, dict(zip(heads, place, strict=True)))
        title = _title(columns, line[columns])
        entry[title] = as_cell(line)
        for text, name, digits in zip(RELATIVE, ("improvement", "share"), ("+.1f", ".1f"), strict=True):
            entry[title + text] = _estimate(line, name, digits)
    extra = ["", *(RELATIVE if relative else ())]
    names = [*heads, *(title + text for title in titles for text in extra)]
    shown = pd.DataFrame(list(lines.values()), columns=names).fillna(NONE)
    empty = [name for name in names if name.endswith(RELATIVE) and (shown[name] == NONE).all()]
    return Table(shown.drop(columns=empty), tuple(_notes(table, cell, {rows, columns, *heads}, relative)))


def _read(column: str, value: object) -> str:
    if pd.isna(value):
        return "all images" if column == "ipc" else NONE
    return READERS.get(column, lambda each: f"{each:g}" if isinstance(each, float) else str(each))(value)


def _title(column: str, value: object) -> str:
    text = _read(column, value)
    return f"ipc {text}" if column == "ipc" and pd.notna(value) else text


def _estimate(line: pd.Series, name: str, pattern: str) -> str:
    if pd.isna(line[name]):
        return NONE
    own = {"mean": line[name]} | {key: line[f"{name}_{key}"] for key in ("low", "high", "interval")}
    return f"{line[name]:{pattern}}{spread(pd.Series(own))}".replace("-", "−")


def _notes(table: pd.DataFrame, cell: list[str], shown: set[str], relative: bool) -> Iterable[str]:
    """What a cell says: mean, interval and n; what stands beside it; what is the same in all cells."""
    full, kinds = table["method"] == "full", []
    if not full.all():
        n, m = (_range(table.loc[~full, name]) for name in ("seeds", "repeats"))
        kinds.append(f"n × m: seeds × networks per set; n = {n}, m = {m}")
    if full.any():
        kinds.append(f"of the full set n = {_range(table.loc[full, 'seeds'])} networks, each with its seed")
    over = "networks" if full.all() else "distillation seeds"
    names = [name for name in dict.fromkeys(table["interval"]) if name != NO_INTERVAL]
    parts = [f"Test accuracy in %, mean over {over} ({'; '.join(kinds)})"]
    parts += [f"± half width, or [low–high], of the {' or '.join(names)}"] if names else []
    parts += ["which stands around the mean over all sets of the cell"] if NETWORKS_NAME in names else []
    parts += (
        ["nothing behind a mean: too few for an interval"] if NO_INTERVAL in set(table["interval"]) else []
    )
    yield "; ".join(parts) + "."
    if relative:
        kinds = sorted({*table["improvement_interval"], *table["share_interval"]} - {NO_INTERVAL})
        yield (
            "Over random: points over random real images of the same ipc on the same network; % of full set: "
            f"ratio of mean accuracies. Intervals: {', '.join(kinds) or 'none'}."
        )
        if dropped := int(table["improvement_dropped"].sum()):
            yield f"Seeds without a partner, left out of paired differences: {dropped} over all cells."
    same = []
    for name in (name for name in cell if name not in shown):
        values = table.dropna(subset=name).groupby("method", sort=False)[name].unique()
        if table[name].nunique() == 1:
            same.append(f"{name} {_read('', values.iloc[0][0])}")
        else:
            same += [
                f"{name} {', '.join(_read('', v) for v in own)} ({method_label(m)})"
                for m, own in values.items()
            ]
    if same:
        yield f"All cells that have one: {'; '.join(same)}."


def _range(values: pd.Series) -> str:
    low, high = values.min(), values.max()
    return f"{low:.0f}" if low == high else f"{low:.0f} to {high:.0f}"


# Differences and findings


def differences(rows: pd.DataFrame, pairs: Iterable[tuple[str, str]]) -> pd.DataFrame:
    """Paired differences in accuracy, first - second method, by objective and ipc; those that have results.

    Args:
        rows: result rows of one network.
        pairs: first and second method.
    """
    rows, methods = per_objective(rows), set(rows["method"])
    found = [paired(rows, *pair, ["objective", "ipc"]) for pair in pairs if set(pair) <= methods]
    return pd.concat(found or [pd.DataFrame(columns=["objective", "ipc"])]).sort_values(
        "ipc", kind="stable", ignore_index=True
    )


def difference_table(found: pd.DataFrame, name: str = "difference") -> Table:
    """Differences in points of accuracy with their 95 % t interval over the seeds that both have.

    The effect size is the mean difference over the deviation of the differences, after Hedges' correction.

    Args:
        found: as `differences` gives it, or with a column `name` that says what each is.
        name: title of that column.
    """
    if found.empty:
        return Table(found, ("This profile has no such pair of methods.",))
    named = found[name] if name in found else [comparison(row) for _, row in found.iterrows()]
    shown = {
        **{key: found[key] for key in ("objective", "ipc") if key in found},
        name: named,
        "mean (points)": found["mean"].map(signed),
        "95 % interval": [interval_text(row) for _, row in found.iterrows()],
        "effect size": found["effect"].map(signed),
        "seeds": found["seeds"],
    }
    shown = pd.DataFrame(shown)
    return Table(shown if found["objective"].nunique() > 1 else shown.drop(columns="objective"))


def comparison(row: pd.Series) -> str:
    """The two methods of a difference."""
    return f"{method_label(row['first'])} − {method_label(row['second'])}"


def interval_text(row: pd.Series, write: Callable[[float], str] = signed) -> str:
    """The two ends of an interval; a dash where seeds are too few."""
    return NONE if pd.isna(row["high"]) else f"{write(row['low'])} to {write(row['high'])}"


def verdicts(found: pd.DataFrame, name: str = "difference") -> Sentences:
    """Differences by what their intervals say; arguments as of `difference_table`."""
    texts = {
        "above": "Above 0, the first is more accurate",
        "below": "Below 0, the second is more accurate",
        "around": "Around 0, not told apart with these seeds",
        "too few seeds": "Too few seeds for an interval",
    }
    groups: dict[str, list[str]] = {text: [] for text in texts.values()}
    for _, row in found.iterrows():
        place = [row["objective"].upper()] * (found["objective"].nunique() > 1)
        place += [f"ipc {row['ipc']:g}"] if "ipc" in found else []
        what = row[name] if name in found else comparison(row)
        place += (
            [signed(row["mean"])] + [interval_text(row)] * pd.notna(row["high"]) + [f"n = {row['seeds']}"]
        )
        groups[texts[side(row)]].append(f"{what} ({', '.join(place)})")
    return Sentences([f"{text}: {'; '.join(names)}." for text, names in groups.items() if names])


def with_bootstrap(values: pd.Series, digits: int = 2) -> str:
    """Mean over runs with its 95 % interval by resampling them; none below three."""
    found = bootstrap_interval(values.dropna(), "percentile")
    bounds = "" if np.isnan(found["low"]) else f" ({found['low']:.{digits}f} to {found['high']:.{digits}f})"
    return NONE if values.isna().all() else f"{values.mean():.{digits}f}{bounds}".replace("-", "−")


def finding_table(found: pd.DataFrame, claim: str) -> Table:
    """Comparisons of one claim, as `claims.findings` gives them: estimate, interval, power, verdict."""
    found = found[found["claim"] == claim]
    if found.empty:
        return Table(found, ("Not tested in this profile.",))

    def value(row: pd.Series) -> Callable[[float], str]:
        return signed if row["unit"] == "points" else lambda number: f"{number:.2f}".replace("-", "−")

    def least(row: pd.Series) -> str:
        if pd.isna(row["detectable"]) or (row["unit"] == "Spearman" and row["detectable"] > 1):
            return NONE
        return {"points": "{:.1f} points", "ratio": "× {:.2f}"}.get(row["unit"], "{:.2f}").format(
            row["detectable"]
        )

    lines = [
        {
            "": f"{row['objective'].upper()}, ipc {row['ipc']:g}",
            "comparison": row["comparison"],
            "the claim": row["verdict"],
            "estimate": NONE if pd.isna(row["mean"]) else value(row)(row["mean"]),
            "95 % interval": interval_text(row, value(row)),
            "seeds": row["seeds"],
            "p (Holm)": row["p_holm"],
            "found with 80 %": least(row),
        }
        for _, row in found.iterrows()
    ]
    return Table(pd.DataFrame(lines), formats={"p (Holm)": "{:.2g}"})


# Published numbers


def published_tables(found: pd.DataFrame) -> list[Table]:
    """Published numbers that have one of ours beside them, with what differs; then the rest, with the reason.

    Args:
        found: as `published.numbers` gives it.
    """
    if found.empty:
        return [Table(found, ("Nothing is on record as published for these results.",))]
    place = {
        "published method": found["published_method"],
        "objective": found["objective"],
        "ipc": [_read("ipc", ipc) for ipc in found["ipc"]],
        "evaluation": found["evaluation"],
        "published": [
            f"{row['published']:.1f}"
            + ("" if pd.isna(row["published_sd"]) else f" ± {row['published_sd']:.1f}")
            for _, row in found.iterrows()
        ],
    }
    shown, ours = pd.DataFrame(place, index=found.index), found[found["missing"] == ""]
    beside = shown.loc[ours.index].assign(ours=[as_cell(row) for _, row in ours.iterrows()])
    beside = beside.assign(
        **{
            "what differs": ours.get("differences", ours["source"]).replace("", NONE),
            "source": ours["source"],
        }
    )
    alone = shown[found["missing"] != ""].assign(
        **{"why not here": found["missing"], "source": found["source"]}
    )
    notes = [
        f"Our ± is a {kind}." for kind in ours.get("interval", ours["source"]).unique() if kind != NO_INTERVAL
    ]
    for kind, lines in ours[ours["published_sd"].notna()].groupby("published_spread", sort=False):
        names = shown.loc[lines.index, ["published method", "objective"]].drop_duplicates().to_numpy()
        whose = ", ".join(method + ("" if pd.isna(name) else f" ({name.upper()})") for method, name in names)
        notes.append(f"The published ± is {kind}: {whose}.")
    return [Table(table, tuple(said)) for table, said in ((beside, notes), (alone, [])) if len(table)]


# Generators and origins


def prior_table(*priors: str) -> Table:
    """What the cards of generators say of their training and of their samples, a column each."""
    columns = {}
    for prior in priors:
        card = prior_card(prior)
        quality, training = card.get("quality"), card.get("training", {})
        if quality is None:
            drawn = f"none: weights drawn from seed {card.get('seed')}"
            columns[prior] = {"training": drawn if "seed" in card else "not by this project"}
            continue
        columns[prior] = {
            "training": f"{training['steps']:,} steps of {training['batch_size']} images, "
            f"{duration(card['provenance']['seconds'])}",
            "samples that show the class asked for": f"{quality['intended_class']:.2f} % of "
            f"{quality['samples']:,}",
            "test accuracy of a network trained on samples only": f"{quality['trained_on_samples']:.1f} %",
            "test accuracy of it trained on the real images": f"{quality['real_test_accuracy']:.1f} %",
        }
        for key, what in (("frechet_distance", "samples"), ("frechet_distance_real", "training images")):
            if key in quality:
                columns[prior][f"Fréchet distance of {what} to test images"] = f"{quality[key]:.3f}"
    lines = max(columns.values(), key=len)
    return Table(
        pd.DataFrame({"": list(lines)} | {p: [own.get(line) for line in lines] for p, own in columns.items()})
    )


def stage_table(stages: Sequence[object], images: int | None = None) -> Table:
    """Stage, split layer, steps and rates of a search; for a run of so many images its work and the total."""
    found = pd.DataFrame([each if isinstance(each, dict) else vars(each) for each in stages])
    shown = pd.DataFrame(
        {
            "stage": range(1, len(found) + 1),
            "split layer": found["name"],
            "steps": found["steps"],
            "rate of f": found["lr_f"].replace(0, np.nan),
            "rate of w": found["lr_w"].replace(0, np.nan),
        }
    )
    formats = {"rate of f": "{:g}", "rate of w": "{:g}", "GFLOP a step": "{:.3g}", "GFLOP": "{:.3g}"}
    if images is not None:
        work = found["flops"] * images / 1e9
        shown = shown.assign(**{"GFLOP a step": work, "GFLOP": work * found["steps"]})
        total = {"stage": "all", "split layer": "", "steps": found["steps"].sum()}
        total["GFLOP"] = (work * found["steps"]).sum()
        shown = pd.concat([shown.astype({"stage": object}), pd.DataFrame([total])], ignore_index=True)
    return Table(shown, formats=formats)


def duration(seconds: float) -> str:
    """Seconds, or minutes from two on."""
    return f"{seconds:.0f} s" if seconds < 120 else f"{seconds / 60:.0f} min"


def provenance(experiment) -> Sentences:
    """Where the numbers of a notebook come from, read from the results themselves."""
    cards, profile, plan = list(frame.runs(experiment)["card"]), experiment.profile, experiment.plan
    cards = list({str(card["provenance"]) + str(card["settings"]): card for card in cards}.values())
    tasks = {task.key: task for task in plan.all_evaluations}
    records = [card["provenance"] for card in cards] + experiment.store.provenance(list(tasks))
    seeds = sorted({card["settings"]["seed"] for card in cards} or {task.seed for task in tasks.values()})
    priors = [profile.prior, *plan.families] if profile.prior else []
    versions = [
        ", ".join(
            [f"hglad {r['hglad']}", f"Python {r['python']}", *(f"{n} {v}" for n, v in r["packages"].items())]
        )
        for r in records
    ]
    hashes = {record["data_hash"] for record in (*cards, *records) if "data_hash" in record}
    lines = {
        "profile": profile.profile,
        "runs": f"distillations: {len(cards)}, evaluations: {len(tasks)}, "
        f"{duration(sum(record['seconds'] for record in records))} of computing in all",
        "distillation seeds": ", ".join(map(str, seeds)),
        "computed": dates(records),
        "code": _joined(map(code_text, records)),
        "device": _joined(record["device"] for record in records),
        "versions": _joined(versions),
        "data": f"{frame.real_data(experiment).train.name}, content {_joined(hashes)}",
        "generator": _joined(f"{Path(prior).stem}, content {prior_hash(prior)[:12]}" for prior in priors)
        or NONE,
    }
    return Sentences([f"{name}: {text}" for name, text in lines.items()], "provenance")


def _joined(texts: Iterable[str]) -> str:
    return "; ".join(sorted(set(texts)))


# hglad results table


def chosen_format(name: str | None, out: str | Path | None) -> str:
    """Format of a table: the one named, else that of the file's suffix, else text.

    Raises:
        HgladError: unknown format or suffix, or a suffix of another format.
    """
    if name is not None and name not in FORMATS.values():
        raise HgladError(f"unknown format '{name}': {suggestion(name, FORMATS.values())}")
    if out is None:
        return name or "text"
    found = FORMATS.get(Path(out).suffix)
    if found is None or name not in (None, found):
        wanted = next((suffix for suffix, each in FORMATS.items() if each == name), " or ".join(FORMATS))
        raise HgladError(f"cannot write {out} as {name or 'a table'}: expected a name that ends in {wanted}")
    return found


def results_text(
    store,
    keys: Mapping[str, dict] | None = None,
    form: str = "text",
    objective: str | None = None,
    ipc: int | None = None,
    interval: str = "t",
    published: bool = False,
    **layout: object,
) -> str:
    """A table of results with intervals, and below it where they come from: `hglad results table`.

    Args:
        store: folder of results.
        keys: marks by key of the evaluations to show; all of the folder by default.
        form: text, markdown, latex, or csv (numbers, not cells).
        objective, ipc: those rows only, with their baselines.
        interval: as in `cells`.
        published: add published numbers (csv: these alone).
        layout: `rows`, `columns` and `relative` of `result_table`.

    Raises:
        HgladError: unknown objective, ipc, interval or column; nothing published for a csv.
    """
    rows = select(store.rows(keys), objective, ipc)
    own, found = list(dict.fromkeys(rows["key"])), cells(rows, interval)
    table = result_table(found, **layout)
    tables = [Table(table.frame, (*table.notes, provenance_note(store.provenance(own))))]
    if published:
        images = images_of(store, own)
        found = numbers(rows, store, images, *INTERVALS[interval])
        found = found[found["missing"] == ""]
        if found.empty and form == "csv":
            raise HgladError(f"nothing is on record as published for {images.dataset}: leave out --published")
        tables += published_tables(found)
    return found.to_csv(index=False) if form == "csv" else "\n".join(each.text(form) for each in tables)


def write_text(path: str | Path, text: str) -> None:
    """Write a text file, whole or not at all."""
    with write_whole(path) as draft:
        draft.write_text(text)
