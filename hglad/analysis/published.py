"""Published accuracies beside own ones, each with its source and with what differs in the protocol.

A difference is named where both sides are on record: ours in the provenance of the evaluation and on the card
of the set, theirs in `EVALUATIONS` and `DISTILLATIONS`. What a source does is not guessed.
"""

import re
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
from safetensors import safe_open

from hglad.analysis.labels import LABELS
from hglad.analysis.statistics import equal, summarise
from hglad.errors import HgladError
from hglad.evaluation.sets import images_left_out
from hglad.evaluation.training import protocol
from hglad.experiments.store import Store, cell_columns, main_rows
from hglad.networks.convnet import default_depth
from hglad.paths import PROJECT
from hglad.settings import DSA
from hglad.storage import read_json

OURS = {  # names of methods in data/published.csv that are not those of the rows
    "pixel": "pixels",
    "pixel (DSA)": "pixels",
    "GLaD": "single",
    "H-GLaD": "hierarchical",
    "random real images": "random",
    "whole training set": "full",
}
NETWORKS = {"AlexNet": "alexnet", "VGG-11": "vgg11", "ResNet-18": "resnet18", "ViT": "vit"}
SAME = re.compile(r"same architecture \(ConvNet-(\d+)\)")
CROSS = re.compile(r"cross-architecture mean \((.+)\)")


@dataclass(frozen=True)
class Evaluation:
    """How a published set was scored."""

    protocol: str
    """Training of the networks, in `hglad.settings.PROTOCOLS`."""
    networks: str
    """Networks behind the number; its spread is a standard deviation over them."""


@dataclass(frozen=True)
class Distillation:
    """How a published set was made; none is not on record."""

    steps: int
    """Steps of the search."""
    augmentation: str | None = None
    """Siamese augmentation; "" for none."""


MANY = "20 networks of each of 5 sets"
GLAD = Evaluation("glad", "5 networks of one set")
EVALUATIONS = {  # by method, objective and data set, or by the method alone
    "GLaD": GLAD,
    "H-GLaD": GLAD,
    ("pixel", "dc", "cifar10"): Evaluation("dc", MANY),
    ("pixel (DSA)", "dc", "cifar10"): Evaluation("dm", MANY),
    ("pixel", "dm", "cifar10"): Evaluation("dm", MANY),
}
DISTILLATIONS = {
    ("GLaD", "dc"): Distillation(1000),
    ("GLaD", "dm"): Distillation(1000),
    ("GLaD", "mtt"): Distillation(5000),
    ("pixel", "dc", "cifar10"): Distillation(1000, ""),
    ("pixel (DSA)", "dc", "cifar10"): Distillation(1000, DSA),
    ("pixel", "dm", "cifar10"): Distillation(20000, DSA),
    ("pixel", "mtt", "cifar10"): Distillation(5000),
}


@dataclass(frozen=True)
class Images:
    """Data set and resolution that numbers belong to."""

    dataset: str
    """Name in data/published.csv."""
    resolution: int
    """Height and width in pixels."""


def published(dataset: str, resolution: int, ipc: int) -> pd.DataFrame:
    """Accuracies that papers report for a ConvNet of the surrogate's kind, from `data/published.csv`.

    Returns:
        Columns of the file; `source` names the paper. Empty where nothing was published.
    """
    table = _all_published(Images(dataset, resolution))
    return table[table["evaluation"].str.startswith("same architecture") & (table["ipc"] == str(ipc))]


def _all_published(images: Images) -> pd.DataFrame:
    table = pd.read_csv(PROJECT / "data" / "published.csv", dtype={"ipc": str})
    return table[(table["dataset"] == images.dataset) & (table["resolution"] == images.resolution)]


def images_of(store: Store, keys: list[str]) -> Images:
    """Data set of evaluations, from their provenance, or from the cards of the sets behind older ones.

    Raises:
        HgladError: neither, or several data sets.
    """
    folders = [store.set_folder(key) for key in _sets(store, keys) if _card(store, key)]
    found = {images for folder in folders if (images := _images(folder))}
    recorded = [record["images"] for record in store.provenance(keys) if "images" in record]
    found |= {Images(each["dataset"], each["shape"][-1]) for each in recorded}
    if len(found) != 1:
        what = ", ".join(sorted(f"{each.dataset} at {each.resolution} px" for each in found)) or "no data set"
        raise HgladError(f"the results in {store.root} are of {what}: expected one for published numbers")
    return found.pop()


def _images(folder: Path) -> Images | None:
    """Of a set; none where its resolution was that of the data and its images were left out."""
    settings = read_json(folder / "card.json")["settings"]["data"]
    name = Path(settings["root"]).name if settings["name"] == "folder" else settings["name"]
    if settings.get("resolution") is None:
        if images_left_out(folder):
            return None
        with safe_open(folder / "distilled.safetensors", "np") as file:
            return Images(name, file.get_slice("images").get_shape()[-1])
    return Images(name, settings["resolution"])


def _sets(store: Store, keys: list[str]) -> list[str]:
    return list(dict.fromkeys(str(record.get("set")) for record in store.provenance(keys)))


def _card(store: Store, key: str) -> dict | None:
    """Card of a set with settings; none for baselines and for sets that other code made."""
    file = store.set_folder(key) / "card.json"
    card = read_json(file) if file.is_file() else {}
    return card if "settings" in card else None


def beside_published(
    rows: pd.DataFrame, store: Store, images: Images, interval: str = "t", over: str = "seeds"
) -> pd.DataFrame:
    """Own results beside what was published for the same data set, resolution, ipc and kind of evaluation.

    Args:
        rows: result rows with their `key`.
        store: where they come from.
        images: data set and resolution.
        interval, over: as in `statistics.summarise`.

    Returns:
        One row per own cell and published number: columns of the cell, those of `summarise`, `sd_networks`
        (over the networks of one set), `published`, `published_sd`, `published_method`, `evaluation`,
        `source`, `spread` (what is behind the ± of both), `published_spread` (of theirs alone),
        `differences`. Empty where nothing was published.
    """
    numbers = _all_published(images).to_dict("records")
    return pd.DataFrame(
        [line for number in numbers for line in _beside(number, rows, store, images, interval, over)]
    )


def every_number(rows: pd.DataFrame, store: Store, images: Images) -> pd.DataFrame:
    """All that was published for a data set and resolution, as `beside_published`, with ours or without.

    Returns:
        Its columns, those of own results nan where there are none, and `missing`: why there are none, or "".
    """
    lines = []
    for number in _all_published(images).to_dict("records"):
        own = _beside(number, rows, store, images, "t", "seeds")
        known = number["method"] in OURS or number["method"] in LABELS
        why = "not measured in this profile" if known else "not a method of this project"
        objective = None if number["objective"] == "none" else number["objective"]
        none = {"objective": objective, "ipc": number["ipc"], "missing": why}
        lines += [line | {"missing": ""} for line in own] or [none | _published_part(number)]
    return pd.DataFrame(lines)


def _beside(
    number: dict, rows: pd.DataFrame, store: Store, images: Images, interval: str, over: str
) -> list[dict]:
    """A line for each own cell that a published number is about."""
    own, lines = _comparable(rows, number, store, images), []
    if own.empty:
        return []
    cell = [name for name in cell_columns(own) if name != "network"]
    table = summarise(own, cell, interval, over)
    table = table.merge(summarise(own, cell, over="networks")[[*cell, "sd"]], on=cell).rename(
        columns={"sd_x": "sd", "sd_y": "sd_networks"}
    )
    for line in table.to_dict("records"):
        mine = own[np.logical_and.reduce([equal(own[name], line[name]) for name in cell])]
        comparison = {
            "spread": _spread_text(number, line),
            "differences": "; ".join(_differences(number, mine, store)),
        }
        lines.append(line | _published_part(number) | comparison)
    return lines


def _published_part(number: dict) -> dict:
    return {
        "published": number["accuracy_percent"],
        "published_sd": number["std"],
        "published_spread": _published_spread(number),
        "published_method": number["method"],
        "evaluation": number["evaluation"],
        "source": number["source"],
    }


def _comparable(rows: pd.DataFrame, number: dict, store: Store, images: Images) -> pd.DataFrame:
    """Own rows that a published number is about; the mean over networks for a cross-architecture mean.

    Their column `keys` names the evaluations behind each.
    """
    rows = main_rows(rows)
    wanted = rows["method"] == OURS.get(number["method"], number["method"])
    objective = None if number["objective"] == "none" else number["objective"]
    wanted &= equal(rows["objective"], objective)
    wanted &= equal(rows["ipc"], None if number["ipc"] == "all" else int(number["ipc"]))
    rows = rows[wanted]
    options = {key: store.provenance([key])[0]["settings"]["network"] for key in rows["key"].unique()}
    same, cross = SAME.match(number["evaluation"]), CROSS.match(number["evaluation"])
    if same:
        depth, shape = int(same[1]), (3, images.resolution, images.resolution)
        chosen = [key for key, own in options.items() if _is_convnet(own, depth, shape)]
        rows = rows[rows["key"].isin(chosen)]
        return rows.assign(keys=[(key,) for key in rows["key"]])
    names = [NETWORKS[label] for label in cross[1].split(", ")]
    return _over_architectures(
        rows[rows["key"].isin([k for k, own in options.items() if own["name"] in names])]
    )


def _is_convnet(options: dict, depth: int, shape: tuple[int, int, int]) -> bool:
    return options["name"] == "convnet" and (options.get("depth") or default_depth(shape)) == depth


def _over_architectures(rows: pd.DataFrame) -> pd.DataFrame:
    """One row per set and repeat: the mean over the architectures, of the sets that all of them have met."""
    place = [*(name for name in cell_columns(rows) if name != "network"), "seed", "repeat"]
    met = rows.groupby(place, sort=False, dropna=False)["network"].transform("nunique")
    groups = rows[met == rows["network"].nunique()].groupby(place, sort=False, dropna=False)
    return groups.agg(accuracy=("accuracy", "mean"), keys=("key", tuple)).reset_index()


def _differences(number: dict, own: pd.DataFrame, store: Store) -> list[str]:
    """What is on record on both sides and differs; what is not on record of the source is said."""
    keys = list(dict.fromkeys(own["keys"].explode()))
    records = store.provenance(keys)
    theirs = _on_record(EVALUATIONS, number)
    texts = _network_texts(number, records)
    if theirs is None:
        texts.append("training of the networks: not on record for this source")
    else:
        texts += _training_texts(theirs.protocol, records)
    cards = [card for key in _sets(store, keys) if (card := _card(store, key))]
    return texts + _distillation_texts(number, cards)


def _on_record(table: dict, number: dict) -> Evaluation | Distillation | None:
    """What is on record of a published number: of this data set, of the objective, of the method."""
    key = (number["method"], number["objective"], number["dataset"])
    return table.get(key) or table.get(key[:2]) or table.get(key[0])


def _spread_text(number: dict, line: dict) -> str:
    count = " × ".join(f"{n} {part}{'s' * (n != 1)}" for n, part in _behind(line))
    ours = f"none ({count})" if line["interval"] == "none" else f"{line['interval']} ({count})"
    return f"spread: {ours}, published: {_published_spread(number)}"


def _behind(line: dict) -> tuple[tuple[int, str], ...]:
    return (line["seeds"], "seed"), (line["repeats"], "network")


def _published_spread(number: dict) -> str:
    theirs = _on_record(EVALUATIONS, number)
    kind = "a standard deviation over networks" if theirs else "of a kind that is not on record"
    behind = f" ({theirs.networks})" if theirs else ""
    return f"{'none' if pd.isna(number['std']) else kind}{behind}"


def _network_texts(number: dict, records: list[dict]) -> list[str]:
    options = list({str(r["settings"]["network"]): r["settings"]["network"] for r in records}.values())
    texts, cross = [], CROSS.match(number["evaluation"])
    for own in options:
        usual = 128 if own["name"] == "convnet" else 1.0
        if own.get("width", usual) != usual:
            texts.append(f"{own['name']} of width {own['width']:g} (published: {usual:g})")
    if cross:
        there = {own["name"] for own in options}
        missing = [label for label in cross[1].split(", ") if NETWORKS[label] not in there]
        texts += [f"ours without {', '.join(missing)}"] if missing else []
    return texts


def _training_texts(name: str, records: list[dict]) -> list[str]:
    """Settings of the evaluation's training that are not those of the named protocol."""
    found: dict[str, dict[str, str]] = {}
    for record in records:
        ours = record["settings"]["training"]
        for field, theirs in vars(protocol(name, record["settings"]["network"]["name"])).items():
            if field in ours and ours[field] != theirs:
                found.setdefault(field, {})[_plain(ours[field], field)] = _plain(theirs, field)
    return [
        f"{field} of training: {', '.join(values)} (published: {', '.join(dict.fromkeys(values.values()))})"
        for field, values in found.items()
    ]


def _plain(value: object, field: str = "") -> str:
    if isinstance(value, float):
        return f"{value:g}"
    text = "none" if value in (None, "") else str(value)
    return text.replace("_", ", ") if "augmentation" in field else text


def _distillation_texts(number: dict, cards: list[dict]) -> list[str]:
    """Steps, siamese augmentation and generator on the cards of the sets."""
    texts, theirs = [], _on_record(DISTILLATIONS, number)
    if theirs and cards:
        steps = sorted({sum(stage["steps"] for stage in card["stages"]) for card in cards})
        texts += _differing("steps", steps, theirs.steps)
        found = sorted({card["settings"]["surrogate"]["augmentation"] for card in cards})
        if theirs.augmentation is not None:
            texts += _differing("siamese augmentation", found, theirs.augmentation)
    priors = sorted({Path(card["settings"]["prior"]).stem for card in cards})
    if number["method"] in ("GLaD", "H-GLaD") and priors:
        texts.append(f"generator: {', '.join(priors)} (published: StyleGAN-XL trained on ImageNet)")
    return texts


def _differing(name: str, ours: list, theirs: object) -> list[str]:
    if ours == [theirs]:
        return []
    return [f"{name}: {' or '.join(_plain(own, name) for own in ours)} (published: {_plain(theirs, name)})"]
