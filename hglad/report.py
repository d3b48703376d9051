"""What the notebooks print: tables, sentences that follow from numbers, pictures and the provenance box.

Everything depends on the results alone, with few digits: executing a notebook again gives the same text.
"""

import base64
import io
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from html import escape
from pathlib import Path

import numpy as np
import pandas as pd
from IPython.display import Image, display
from matplotlib.figure import Figure

from hglad import rendering, tables
from hglad.distillation import DistillationSettings, load_real, planned_stages
from hglad.evaluation_task import EvaluateTask
from hglad.experiments import layer_count
from hglad.labels import LABELS, method_label, method_place, objective_label
from hglad.laboratory import Laboratory
from hglad.plots import image_rows
from hglad.presets import PRESETS, preset, published_schedule
from hglad.priors import prior_card, prior_hash
from hglad.profile import Profile
from hglad.published import beside_published, images_of, published
from hglad.stages import Stage
from hglad.statistics import as_cell, paired, seed_means, summarise

DPI = 130
NONE = "–"


@dataclass(frozen=True)
class Table:
    """A data frame of finished cells, shown as plain HTML or text."""

    frame: pd.DataFrame
    index: bool = False
    """Whether the index is a column of the table."""
    wrapped: bool = False
    """Whether long cells break into lines."""

    def _repr_html_(self) -> str:
        html = self.frame.to_html(index=self.index, border=0, justify="left", na_rep=NONE)
        return html.replace("<td>", '<td style="white-space: normal">') if self.wrapped else html

    def __repr__(self) -> str:
        return self.frame.to_string(index=self.index, na_rep=NONE)


@dataclass(frozen=True)
class Sentences:
    """Sentences that follow from numbers by rule, one below the other."""

    lines: tuple[str, ...]

    def _repr_html_(self) -> str:
        return "<ul>" + "".join(f"<li>{escape(line)}</li>" for line in self.lines) + "</ul>"

    def __repr__(self) -> str:
        return "\n".join(self.lines)


@dataclass(frozen=True)
class Downloads:
    """Links below a figure: the picture itself, which the page already has, and its numbers."""

    name: str
    csv: str

    def _repr_html_(self) -> str:
        numbers = base64.b64encode(self.csv.encode()).decode()
        shown = "this.href = this.closest('.cell_output').querySelector('img').src"
        return (
            '<p class="downloads" style="text-align: right; font-size: 85%">Download: '
            f'<a href="#" download="{self.name}.png" onclick="{shown}">figure</a> · '
            f'<a href="data:text/csv;base64,{numbers}" download="{self.name}.csv">its numbers (CSV)</a></p>'
        )

    def __repr__(self) -> str:
        return f"{self.name}: {self.csv.count(chr(10)) - 1} rows"


def picture(figure: Figure, numbers: pd.DataFrame | None = None, name: str = "figure") -> Image | Downloads:
    """A figure as PNG, without date and version, so that equal figures are equal bytes.

    Args:
        figure: what is shown.
        numbers: what it is drawn from; with them, links to both are below.
        name: of the files that the links give.
    """
    buffer = io.BytesIO()
    figure.savefig(buffer, dpi=DPI, format="png", metadata={"Software": None})
    image = Image(buffer.getvalue())
    if numbers is None:
        return image
    display(image)
    numbers = numbers.drop(columns="key", errors="ignore").dropna(axis="columns", how="all")
    return Downloads(name, numbers.to_csv(index=False, float_format="%.6g", lineterminator="\n"))


def main_table(rows: pd.DataFrame) -> Table:
    """Accuracy of each method at each ipc; as `results.as_cell` writes it."""
    return _method_table(rows.fillna({"ipc": float("inf")}), "ipc", _ipc_column)


def prior_table(*priors: str) -> Table:
    """What the cards of generators say of their training and of their samples, a column each."""
    columns = {prior: _prior_column(prior_card(prior)) for prior in priors}
    lines = max(columns.values(), key=len)
    rows = [[line, *(column.get(line, NONE) for column in columns.values())] for line in lines]
    return Table(pd.DataFrame(rows, columns=["", *columns]))


def _prior_column(card: dict) -> dict[str, str]:
    if "quality" not in card:
        origin = f"none: weights drawn from seed {card['seed']}" if "seed" in card else "not by this project"
        return {"training": origin}
    quality, provenance = card["quality"], card["provenance"]
    return {
        "training": f"{card['training']['steps']} steps of {card['training']['batch_size']} images, "
        f"{_duration(provenance['seconds'])}",
        "samples that show the class asked for": f"{quality['intended_class']:.2f} % of {quality['samples']}",
        "test accuracy of a network trained on samples only": f"{quality['trained_on_samples']:.1f} %",
        "test accuracy of it trained on the real images": f"{quality['real_test_accuracy']:.1f} %",
    }


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
    wide.index = pd.Index([_method_name(*pair, many=_many_objectives(rows)) for pair in order], name="method")
    wide.columns = [label(value) for value in columns]
    return Table(wide.reset_index())


def _many_objectives(rows: pd.DataFrame) -> bool:
    return rows["objective"].dropna().nunique() > 1


def _method_name(objective: str, method: str, many: bool) -> str:
    return f"{method_label(method)} ({objective.upper()})" if many and objective else method_label(method)


def _ipc_column(ipc: float) -> str:
    return "all images" if ipc == float("inf") else _per_class(ipc)


def _per_class(ipc: float) -> str:
    return f"{ipc:.0f} image{'s' if ipc != 1 else ''} per class"


def objective_table(laboratory: Laboratory) -> Table:
    """Accuracy of pixels under each objective, beside what its paper reports where there is such a number."""
    rows = laboratory.rows.fillna({"objective": ""})
    summary = summarise(rows, ["objective", "method"])
    order = [("", "random"), *((name, "pixels") for name in laboratory.profile.objectives)]
    summary = summary.set_index(["objective", "method"]).loc[order].reset_index()
    cells = {"objective": [objective_label(name) for name in summary["objective"]]}
    cells["accuracy (%)"] = [as_cell(row) for _, row in summary.iterrows()]
    real = load_real(laboratory.profile.data).train
    numbers = published(real.name, real.image_shape[1], laboratory.profile.sets["ipc"][0])
    if len(numbers):
        cells["published (%)"] = [_published(numbers, objective) for objective in summary["objective"]]
    return Table(pd.DataFrame(cells), wrapped=True)


def _published(numbers: pd.DataFrame, objective: str) -> str:
    method = "pixel" if objective else "random real images"
    rows = numbers[(numbers["method"] == method) & (numbers["objective"] == (objective or "none"))]
    return "; ".join(
        f"{row.accuracy_percent:.1f} ± {row['std']:.1f} [{row.source}]" for _, row in rows.iterrows()
    )


def protocol_table(laboratory: Laboratory) -> Table:
    """How each objective was run and what it took: distillation, then the training of the evaluation."""
    cards: dict[str, list[dict]] = {}
    for card in laboratory.cards():
        cards.setdefault(card["settings"]["objective"], []).append(card)
    tasks = {task.distilled.objective: task for task in laboratory.experiment.evaluations if task.distilled}
    columns = {name.upper(): _protocol(cards[name], tasks[name]) for name in laboratory.profile.objectives}
    return Table(pd.DataFrame(columns), index=True, wrapped=True)


def _protocol(cards: list[dict], task: EvaluateTask) -> dict[str, str]:
    settings = cards[0]["settings"]
    seconds = sum(card["provenance"]["seconds"] for card in cards) / len(cards)
    search, surrogate, training = settings["search"], settings["surrogate"], task.training
    unit = "of |x| / |gradient|" if search["rates"] == "relative" else ""
    return {
        "steps": f"{search['steps']}",
        "mean time of a run": f"{_duration(seconds)} ({seconds / search['steps']:.2f} s a step)",
        "device": _joined(card["provenance"]["device"] for card in cards),
        "start": "real images" if search["start"] == "real" else "noise",
        "rate of the pixels": f"{search['lr_pixels']:g} {unit}".strip(),
        "augmentation": surrogate["augmentation"].replace("_", ", ") or "none",
        "own options": ", ".join(f"{key} {value}" for key, value in settings.get("options", {}).items())
        or "none",
        "experts": _experts(settings.get("experts")),
        "evaluation": f"{training.epochs} epochs, lr {training.lr:g}, {training.schedule.replace('_', ' ')}, "
        f"{training.augmentation.replace('_', ', ') or 'no augmentation'}",
    }


def _experts(settings: dict | None) -> str:
    return f"{settings['count']} of {settings['epochs']} epochs" if settings else NONE


def differences(rows: pd.DataFrame, pairs: Iterable[tuple[str, str]]) -> pd.DataFrame:
    """Paired differences in accuracy, by objective and ipc; a pair without results is left out.

    Args:
        rows: result rows of one network.
        pairs: first and second method; the difference is first - second.

    Returns:
        `objective`, `ipc`, `first`, `second`, and the columns of `results.paired`.
    """
    parts = []
    for objective in rows["objective"].dropna().unique():
        part = rows[rows["objective"].isin([objective]) | rows["objective"].isna()]
        for first, second in pairs:
            if {first, second} <= set(part["method"]):
                table = paired(part, first, second, ["ipc"])
                parts.append(table.assign(objective=objective, first=first, second=second))
    return pd.concat(parts, ignore_index=True).sort_values("ipc", kind="stable")


def difference_table(table: pd.DataFrame) -> Table:
    """Paired differences with their interval, in points of accuracy, and their effect size.

    The effect size is the mean difference over the deviation of the differences, after Hedges' correction.
    """
    cells = {
        "ipc": table["ipc"].map("{:.0f}".format),
        "difference": [_comparison(row) for _, row in table.iterrows()],
        "mean (points)": table["mean"].map(signed),
        "95 % interval": [_interval(row) for _, row in table.iterrows()],
        "effect size": [signed(value) if np.isfinite(value) else NONE for value in table["effect"]],
        "seeds": table["seeds"],
    }
    if table["objective"].nunique() > 1:
        cells = {"objective": table["objective"].str.upper()} | cells
    return Table(pd.DataFrame(cells))


def verdicts(table: pd.DataFrame) -> Sentences:
    """A sentence per paired difference: whether its interval excludes 0, and in whose favour."""
    many = table["objective"].nunique() > 1
    return Sentences(
        tuple(
            (f"{row['objective'].upper()}, " if many else "")
            + f"{_per_class(row['ipc'])}: {verdict(_comparison(row), row)}"
            for _, row in table.iterrows()
        )
    )


def verdict(name: str, estimate: pd.Series) -> str:
    """What an interval for a difference says.

    Args:
        name: what is estimated.
        estimate: `mean`, `low`, `high` and `seeds`.
    """
    text = f"{name} = {signed(estimate['mean'])} points"
    if estimate["seeds"] < 2:
        return f"{text}; one seed, no interval."
    excludes = estimate["low"] > 0 or estimate["high"] < 0
    found = "excludes 0" if excludes else "includes 0: not told apart with these seeds"
    return f"{text}; the 95 % interval ({_interval(estimate)}) {found}."


def _comparison(row: pd.Series) -> str:
    return f"{method_label(row['first'])} − {method_label(row['second'])}"


def _interval(row: pd.Series) -> str:
    return NONE if row["seeds"] < 2 else f"{signed(row['low'])} to {signed(row['high'])}"


def signed(value: float) -> str:
    """One digit with a typographic minus; what rounds to zero has no sign."""
    text = f"{value:+.1f}"
    return "0.0" if float(text) == 0 else text.replace("-", "−")


def stage_table(stages: Sequence[Stage]) -> Table:
    """Stage, split layer, steps and rates of a search."""
    rows = [
        {
            "stage": number,
            "split layer": stage.name,
            "steps": stage.steps,
            "rate of f": f"{stage.lr_f:g}" if stage.lr_f else NONE,
            "rate of w": f"{stage.lr_w:g}" if stage.lr_w else NONE,
        }
        for number, stage in enumerate(stages, start=1)
    ]
    return Table(pd.DataFrame(rows))


def stage_plan(stages: Sequence[Stage], images: int) -> pd.DataFrame:
    """Stage table of a run of so many images, with the work of the generator, and the total below."""
    work = [stage.flops * images / 1e9 for stage in stages]
    table = stage_table(stages).frame.assign(
        **{
            "GFLOP a step": [f"{each:.3g}" for each in work],
            "GFLOP": [f"{each * stage.steps:.3g}" for each, stage in zip(work, stages, strict=True)],
        }
    )
    total = dict.fromkeys(table.columns, "") | {
        "stage": "all",
        "steps": sum(stage.steps for stage in stages),
        "GFLOP": f"{sum(each * stage.steps for each, stage in zip(work, stages, strict=True)):.3g}",
    }
    return pd.concat([table, pd.DataFrame([total])], ignore_index=True)


def schedule_table(profile: Profile) -> Table:
    """What the published schedules cost on a profile's generator: steps and generator's work for one image.

    GLaD's 1,000 steps at its layer, the presets with the steps of the released code.
    """
    points, rows = layer_count(profile), []
    for name in profile.sets["objectives"]:
        searches = {"GLaD": ("single", {"steps": 1000})}
        for each in PRESETS:
            changes = preset(each, points)["search"] | published_schedule(each, name, points)
            searches[f"H-GLaD, {each}"] = ("hierarchical", changes)
        for label, (kind, changes) in searches.items():
            settings = DistillationSettings.of(profile, name, kind, 1, 0, search=changes)
            rows.append(_schedule_row(name, label, planned_stages(settings)))
    return Table(pd.DataFrame(rows))


def _schedule_row(objective: str, label: str, stages: Sequence[Stage]) -> dict[str, object]:
    return {
        "objective": objective.upper(),
        "search": label,
        "stages": len(stages),
        "steps": sum(stage.steps for stage in stages),
        "generator (GFLOP an image)": f"{sum(s.steps * s.flops for s in stages) / 1e9:.0f}",
    }


def stages_of(card: dict) -> list[Stage]:
    """Stage table on the card of a distilled set."""
    return [Stage(**stage) for stage in card["stages"]]


def distance_history(cards: Iterable[dict]) -> pd.DataFrame:
    """Measured distances of runs: `seed`, `stage`, `step`, `distance`, and which one was `selected`."""
    rows = [
        {"seed": card["settings"]["seed"], "stage": stage, "step": step, "distance": distance}
        | {"selected": [stage, step] == [card["best"]["stage"], card["best"]["step"]]}
        for card in cards
        for stage, step, distance in card["history"]
    ]
    return pd.DataFrame(rows)


def boundary_table(cards: Mapping[str, Iterable[dict]]) -> Table:
    """What bounding the features did where stages began: largest values, where it did anything at all.

    Args:
        cards: cards of distilled sets by variant.
    """
    rows = [
        {"variant": variant, "objective": card["settings"]["objective"].upper()} | _bounding(card)
        for variant, runs in cards.items()
        for card in runs
    ]
    table = pd.DataFrame(rows).groupby(["variant", "objective"], sort=False)
    table = table.agg(
        clipping=("clipped", lambda shares: (shares > 0).sum()),
        runs=("clipped", "count"),
        clipped=("clipped", "max"),
        invalid=("invalid", "max"),
        change=("change", "max"),
    ).reset_index()
    table = table[(table["clipping"] > 0) | (table["invalid"] > 0)]
    cells = {
        "": table["variant"],
        "objective": table["objective"],
        "runs that clip": [f"{n} of {m}" for n, m in zip(table["clipping"], table["runs"], strict=True)],
        "clipped (%)": table["clipped"].map(lambda x: f"{100 * x:.1f}"),
        "not a number": table["invalid"].map("{:.0f}".format),
        "change of images": table["change"].map("{:.3f}".format),
    }
    return Table(pd.DataFrame(cells), wrapped=True)


def _bounding(card: dict) -> dict[str, float]:
    """Largest values over the boundaries of a run; zeros for pixels, which have none."""
    _, clipped, invalid, change = zip((0, 0.0, 0, 0.0), *card["boundaries"], strict=True)
    return {"clipped": max(clipped), "invalid": max(invalid), "change": max(change)}


def best_of_stages(card: dict) -> dict[str, int]:
    """Index of the iterate with the smallest distance in each stage, by the name of its split layer."""
    history = pd.DataFrame(card["history"], columns=["stage", "step", "distance"])
    best = history.groupby("stage")["distance"].idxmin()
    return {card["stages"][stage]["name"]: int(index) for stage, index in best.items()}


def last_of_stages(card: dict) -> dict[str, int]:
    """Index of the last iterate of each stage, by the name of its split layer."""
    history = pd.DataFrame(card["history"], columns=["stage", "step", "distance"])
    last = history.groupby("stage")["step"].idxmax()
    return {card["stages"][stage]["name"]: int(index) for stage, index in last.items()}


def cost_table(cards: Iterable[dict]) -> Table:
    """Steps, generator's work and seconds per run of each search and ipc: means over the runs."""
    rows = [
        {
            "method": card["settings"]["kind"],
            "ipc": card["settings"]["ipc"],
            "objective": card["settings"]["objective"],
            "steps": sum(stage["steps"] for stage in card["stages"]),
            "seconds": card["provenance"]["seconds"],
            "work": generator_work(card),
        }
        for card in cards
    ]
    groups = pd.DataFrame(rows).groupby(["objective", "method", "ipc", "steps"], sort=False)
    table = groups.agg(mean=("seconds", "mean"), work=("work", "mean"), count=("seconds", "count"))
    place = table.index.get_level_values("method").map(list(LABELS).index)
    table = table.iloc[place.argsort(kind="stable")].reset_index()
    cells = {
        "method": table["method"].map(LABELS),
        "ipc": table["ipc"],
        "steps": table["steps"],
        "generator (GFLOP)": table["work"].map("{:.0f}".format),
        "seconds per run": table["mean"].map("{:.1f}".format),
        "runs": table["count"],
    }
    if table["objective"].nunique() > 1:
        cells = {"objective": table["objective"].str.upper()} | cells
    return Table(pd.DataFrame(cells))


def generator_work(card: dict) -> float:
    """GFLOP that a run put through the generator, forward and back."""
    images = card["settings"]["ipc"] * card["classes"]
    return sum(stage["steps"] * stage["flops"] for stage in card["stages"]) * images / 1e9


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


def worst_classes(matrices: Mapping[str, np.ndarray], classes: Sequence[str]) -> Table:
    """Worst class of each method and what its test images are taken for.

    Args:
        matrices: method to shares (true class, predicted class) in percent.
        classes: names.
    """
    rows = []
    for method, shares in matrices.items():
        worst = int(shares.diagonal().argmin())
        others = shares[worst].copy()
        others[worst] = -1
        wrong = (-others).argsort(kind="stable")[:2]  # of equal ones the first, on every processor
        rows.append(
            {
                "method": method,
                "worst class": classes[worst],
                "accuracy on it (%)": f"{shares[worst, worst]:.1f}",
                "most often taken for": ", ".join(f"{classes[k]} ({others[k]:.0f} %)" for k in wrong),
                "mean of the classes (%)": f"{shares.diagonal().mean():.1f}",
            }
        )
    return Table(pd.DataFrame(rows))


def by_method(matrices: Mapping[tuple, np.ndarray]) -> dict[str, np.ndarray]:
    """Matrices of (objective, method) under the names of the methods, in the order of the tables."""
    many = len({objective for objective, _ in matrices if objective}) > 1
    order = sorted(matrices, key=lambda pair: (method_place(pair[1]), pair[0]))
    return {_method_name(*pair, many=many): matrices[pair] for pair in order}


def class_numbers(matrices: Mapping[str, np.ndarray], classes: Sequence[str]) -> pd.DataFrame:
    """Share (%) of the test images of each class that each method's networks take for each class."""
    parts = []
    for method, shares in matrices.items():
        part = pd.DataFrame(shares, columns=list(classes))
        parts.append(part.assign(method=method, true_class=list(classes)))
    table = pd.concat(parts, ignore_index=True)
    return table[["method", "true_class", *classes]]


def sweep_numbers(sweeps: Mapping[str, tuple[pd.DataFrame, Sequence[str]]]) -> pd.DataFrame:
    """Rows of the layer sweeps of several generators, with `generator` and the name of the `split_point`."""
    parts = [
        rows.assign(
            generator=prior, split_point=rows["layer"].map(lambda layer, names=names: names[int(layer)])
        )
        for prior, (rows, names) in sweeps.items()
    ]
    return pd.concat(parts, ignore_index=True)


def usual_rows(rows: pd.DataFrame) -> pd.DataFrame:
    """Rows under the profile's own augmentation."""
    return rows[rows["augmentation"].isna()] if "augmentation" in rows else rows


def augmentation_table(laboratory: Laboratory) -> Table:
    """Accuracy of each method by the augmentation of the training on its sets, at each ipc."""
    usual = laboratory.profile.evaluation.training.augmentation.replace("_", ", ") or "none"
    rows = laboratory.rows[laboratory.rows["method"] != "full"]
    marks = {"augmentation": usual, "objective": ""}
    rows = rows.assign(**{key: None for key in marks if key not in rows}).fillna(marks)
    summary = summarise(rows, ["ipc", "method", "objective", "augmentation"])
    summary = summary.assign(cell=summary.apply(as_cell, axis=1))
    index = ["ipc", "method", "objective"]
    wide = summary.pivot_table(index=index, columns="augmentation", values="cell", aggfunc="first")
    order = sorted(wide.index, key=lambda place: (place[0], method_place(place[1]), place[2]))
    others = [column for column in dict.fromkeys(rows["augmentation"]) if column != usual]
    wide = wide.loc[order, [usual, *others]].rename_axis(columns=None).reset_index()
    many = rows["objective"].replace("", None).nunique() > 1
    names = [_method_name(row["objective"], row["method"], many) for _, row in wide.iterrows()]
    wide = wide.drop(columns=["method", "objective"]).assign(ipc=wide["ipc"].map("{:.0f}".format))
    wide.insert(1, "method", names)
    return Table(wide.fillna(NONE), wrapped=True)


def searches_against(laboratory: Laboratory, baselines: Sequence[str]) -> Table | Sentences:
    """Paired differences of every search and the named baselines; says so where a profile has no searches."""
    searches = laboratory.profile.sets["searches"]
    if not searches:
        return Sentences(("This profile has no searches to compare with.",))
    pairs = [(search, name) for search in searches for name in baselines]
    return difference_table(differences(usual_rows(laboratory.main_rows), pairs))


def published_beside(laboratory: Laboratory) -> Sentences:
    """Published numbers of the same cells, with their sources and what differs; or that there are none."""
    rows = tables.select(usual_rows(laboratory.rows))
    images = images_of(laboratory.store, list(rows["key"].unique()))
    table = tables.published_table(beside_published(rows, laboratory.store, images))
    if table.frame.empty:
        return Sentences(table.notes)
    return Sentences(tuple(_beside(line) for _, line in table.frame.iterrows()))


def _beside(line: pd.Series) -> str:
    what = line["method"] if line["ipc"] == "all images" else f"{line['method']}, {line['ipc']} a class"
    objective = "" if line["objective"] == NONE else f" ({line['objective']})"
    return (
        f"{what}{objective}: {line['ours']} here; {line['published']} in {line['source']}, "
        f"{line['evaluation']}. What differs: {line['what differs']}."
    )


def baseline_pictures(laboratory: Laboratory) -> Image | Sentences:
    """One image per class of the baselines at the first ipc; of real images where the profile shows them."""
    sets = laboratory.baseline_sets(laboratory.profile.sets["ipc"][0])
    order = sorted(sets, key=method_place)
    if not order:
        return Sentences(("All of these sets are real images, which the profile does not show.",))
    rows = {LABELS[method]: sets[method].images[:: sets[method].ipc] for method in order}
    return picture(image_rows(rows, laboratory.classes))


def noted(table: rendering.Table) -> Sentences:
    """What is said below a result table; shows the table."""
    display(Table(table.frame, wrapped=True))
    return Sentences(table.notes)


def gap_table(gaps: pd.DataFrame) -> Table:
    """Gap between the main network and the others, in points."""
    many = gaps["objective"].replace("", None).dropna().nunique() > 1
    gaps = gaps.sort_values("method", key=lambda names: names.map(method_place), kind="stable")
    cells = {
        "method": [_method_name(row["objective"], row["method"], many) for _, row in gaps.iterrows()],
        "gap (points)": gaps["mean"].map(signed),
        "95 % interval": [_interval(row) for _, row in gaps.iterrows()],
        "seeds": gaps["seeds"],
    }
    return Table(pd.DataFrame(cells))


@dataclass(frozen=True)
class Provenance:
    """Where the numbers of a notebook come from."""

    lines: dict[str, str]

    def _repr_html_(self) -> str:
        items = "".join(
            f"<li><strong>{escape(name)}</strong>: {escape(text)}</li>" for name, text in self.lines.items()
        )
        return f'<div class="provenance"><p><strong>Provenance</strong></p><ul>{items}</ul></div>'

    def __repr__(self) -> str:
        return "\n".join(f"{name}: {text}" for name, text in self.lines.items())


def provenance(laboratory: Laboratory) -> Provenance:
    """Provenance of all results that a notebook shows, read from the results themselves."""
    cards, evaluations = laboratory.cards(), laboratory.experiment.all_evaluations
    keys = list(dict.fromkeys(task.key for task in evaluations))
    records = [card["provenance"] for card in cards] + laboratory.store.provenance(keys)
    profile = laboratory.profile
    seeds = sorted({card["settings"]["seed"] for card in cards} or {task.seed for task in evaluations})
    priors = [profile.prior, *laboratory.experiment.families] if profile.prior else []
    generator = _joined(f"{Path(prior).stem}, content {prior_hash(prior)[:12]}" for prior in priors) or NONE
    data = load_real(profile.data).train.name
    hashed = [record for record in (*cards, *records) if "data_hash" in record]
    lines = {
        "profile": profile.profile,
        "runs": f"distillations: {len(cards)}, evaluations: {len(keys)}, "
        f"{_duration(sum(record['seconds'] for record in records))} of computing in all",
        "distillation seeds": ", ".join(map(str, seeds)),
        "computed": _dates(records),
        "code": _joined(tables.commit_text(record) for record in records),
        "device": _joined(record["device"] for record in records),
        "versions": _joined(_versions(record) for record in records),
        "data": f"{data}, content {_joined(record['data_hash'] for record in hashed)}",
        "generator": generator,
    }
    return Provenance(lines)


def _joined(texts: Iterable[str]) -> str:
    return "; ".join(sorted(set(texts)))


def _versions(record: dict) -> str:
    packages = [f"{name} {version}" for name, version in record["packages"].items()]
    return ", ".join([f"hglad {record['hglad']}", f"Python {record['python']}", *packages])


def _dates(records: list[dict]) -> str:
    days = sorted(record["started"][:10] for record in records)
    return days[0] if days[0] == days[-1] else f"{days[0]} to {days[-1]}"


def _duration(seconds: float) -> str:
    return f"{seconds:.0f} s" if seconds < 120 else f"{seconds / 60:.0f} min"
