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

from hglad.analysis import LABELS
from hglad.analysis.cells import cell_columns, main_rows
from hglad.analysis.statistics import equal, summarize
from hglad.errors import HgladError
from hglad.evaluation.sets import images_left_out
from hglad.evaluation.training import protocol
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

MANY, ONE = "20 networks of each of 5 sets", "5 networks of one set"
EVALUATIONS = {  # by method, objective and data set, or by the method: protocol, networks behind a number
    "GLaD": ("glad", ONE),
    "H-GLaD": ("glad", ONE),
    ("pixel", "dc", "cifar10"): ("dc", MANY),
    ("pixel (DSA)", "dc", "cifar10"): ("dm", MANY),
    ("pixel", "dm", "cifar10"): ("dm", MANY),
}
DISTILLATIONS = {  # steps, siamese augmentation where it is on record ("" for none)
    ("GLaD", "dc"): (1000, None),
    ("GLaD", "dm"): (1000, None),
    ("GLaD", "mtt"): (5000, None),
    ("pixel", "dc", "cifar10"): (1000, ""),
    ("pixel (DSA)", "dc", "cifar10"): (1000, DSA),
    ("pixel", "dm", "cifar10"): (20000, DSA),
    ("pixel", "mtt", "cifar10"): (5000, None),
}


@dataclass(frozen=True)
class Images:
    """Data set and resolution that numbers belong to."""

    dataset: str
    """Name in data/published.csv."""
    resolution: int
    """Height and width in pixels."""


def images_of(store, keys: list[str]) -> Images:
    """Data set of evaluations, from their provenance, or from the cards of the sets behind older ones.

    Raises:
        HgladError: neither, or several data sets.
    """
    recorded = [record["images"] for record in store.provenance(keys) if "images" in record]
    found = {Images(each["dataset"], each["shape"][-1]) for each in recorded}
    for folder, card in _cards(store, keys):
        data = card["settings"]["data"]
        name = Path(data["root"]).name if data["name"] == "folder" else data["name"]
        if data.get("resolution") is not None:
            found.add(Images(name, data["resolution"]))
        elif not images_left_out(folder):  # of the data's own resolution
            with safe_open(folder / "distilled.safetensors", "np") as file:
                found.add(Images(name, file.get_slice("images").get_shape()[-1]))
    if len(found) != 1:
        what = ", ".join(sorted(f"{each.dataset} at {each.resolution} px" for each in found)) or "no data set"
        raise HgladError(f"the results in {store.root} are of {what}: expected one for published numbers")
    return found.pop()


def _cards(store, keys: list[str]) -> list[tuple[Path, dict]]:
    """Folders and cards of the sets behind evaluations; not of baselines and of sets that other code made."""
    folders = {store.set_folder(str(record.get("set"))) for record in store.provenance(keys)}
    files = [folder / "card.json" for folder in sorted(folders) if (folder / "card.json").is_file()]
    return [(file.parent, card) for file in files if "settings" in (card := read_json(file))]


def numbers(
    rows: pd.DataFrame, store, images: Images, interval: str = "t", over: str = "seeds"
) -> pd.DataFrame:
    """All that was published for a data set and resolution, with own results of the same kind or without.

    Args:
        rows: result rows with their `key`.
        store: where they come from.
        images: data set and resolution.
        interval, over: as in `statistics.summarize`.

    Returns:
        One row per published number and own cell that it is about: columns of the cell, those of `summarize`,
        `sd_networks` (over the networks of one set); `published`, `published_sd`, `published_method`,
        `evaluation`, `source`, `published_spread` (what is behind its ±),
        `differences`; `missing`: why there is no own result, or "". Empty where nothing was published.
    """
    table = pd.read_csv(PROJECT / "data" / "published.csv", dtype={"ipc": str})
    table = table[(table["dataset"] == images.dataset) & (table["resolution"] == images.resolution)]
    lines = []
    for number in table.to_dict("records"):
        theirs = _on_record(EVALUATIONS, number)
        kind = "a standard deviation over networks" if theirs else "of a kind that is not on record"
        behind = f" ({theirs[1]})" if theirs else ""
        published = {
            "published": number["accuracy_percent"],
            "published_sd": number["std"],
            "published_spread": f"{'none' if pd.isna(number['std']) else kind}{behind}",
            "published_method": number["method"],
            "evaluation": number["evaluation"],
            "source": number["source"],
        }
        own = _own(number, rows, store, images, interval, over)
        known = number["method"] in OURS or number["method"] in LABELS
        why = "not measured in this profile" if known else "not a method of this project"
        objective = None if number["objective"] == "none" else number["objective"]
        lines += [line | published | {"missing": ""} for line in own] or [
            {"objective": objective, "ipc": number["ipc"], "missing": why} | published
        ]
    return pd.DataFrame(lines, columns=None if lines else ["missing"])


def _on_record(table: dict, number: dict) -> tuple | None:
    """What is on record of a published number: of this data set, of the objective, of the method."""
    key = (number["method"], number["objective"], number["dataset"])
    return table.get(key) or table.get(key[:2]) or table.get(key[0])


def _own(number: dict, rows: pd.DataFrame, store, images: Images, interval: str, over: str) -> list[dict]:
    """A line for each own cell that a published number is about."""
    own = _comparable(rows, number, store, images)
    if own.empty:
        return []
    cell = [name for name in cell_columns(own) if name != "network"]
    table = summarize(own, cell, interval, over)
    networks = summarize(own, cell, over="networks")[[*cell, "sd"]].rename(columns={"sd": "sd_networks"})
    lines = table.merge(networks, on=cell).to_dict("records")
    for line in lines:
        mine = own[np.logical_and.reduce([equal(own[name], line[name]) for name in cell])]
        line["differences"] = "; ".join(_differences(number, mine, store))
    return lines


def _comparable(rows: pd.DataFrame, number: dict, store, images: Images) -> pd.DataFrame:
    """Own rows that a published number is about; the mean over networks for a cross-architecture mean.

    Their column `keys` names the evaluations behind each.
    """
    rows = main_rows(rows)
    wanted = rows["method"] == OURS.get(number["method"], number["method"])
    wanted &= equal(rows["objective"], None if number["objective"] == "none" else number["objective"])
    wanted &= equal(rows["ipc"], None if number["ipc"] == "all" else int(number["ipc"]))
    rows = rows[wanted]
    options = {key: store.provenance([key])[0]["settings"]["network"] for key in rows["key"].unique()}
    same, cross = SAME.match(number["evaluation"]), CROSS.match(number["evaluation"])
    if same:
        usual = default_depth((3, images.resolution, images.resolution))
        depths = {k: own.get("depth") or usual for k, own in options.items() if own["name"] == "convnet"}
        rows = rows[rows["key"].map(depths) == int(same[1])]
        return rows.assign(keys=[(key,) for key in rows["key"]])
    names = [NETWORKS[label] for label in cross[1].split(", ")]
    rows = rows[rows["key"].isin([key for key, own in options.items() if own["name"] in names])]
    # one row per set and repeat: the mean over the architectures, of the sets that all of them have met
    place = [*(name for name in cell_columns(rows) if name != "network"), "seed", "repeat"]
    met = rows.groupby(place, sort=False, dropna=False)["network"].transform("nunique")
    groups = rows[met == rows["network"].nunique()].groupby(place, sort=False, dropna=False)
    return groups.agg(accuracy=("accuracy", "mean"), keys=("key", tuple)).reset_index()


def _differences(number: dict, own: pd.DataFrame, store) -> list[str]:
    """What is on record on both sides and differs; what is not on record of the source is said."""
    keys = list(dict.fromkeys(own["keys"].explode()))
    records, cards = store.provenance(keys), [card for _, card in _cards(store, keys)]
    networks = list({str(r["settings"]["network"]): r["settings"]["network"] for r in records}.values())
    texts = []
    for network in networks:
        usual = 128 if network["name"] == "convnet" else 1.0
        if network.get("width", usual) != usual:
            texts.append(f"{network['name']} of width {network['width']:g} (published: {usual:g})")
    cross = CROSS.match(number["evaluation"])
    there = {network["name"] for network in networks}
    missing = [label for label in cross[1].split(", ") if NETWORKS[label] not in there] if cross else []
    texts += [f"ours without {', '.join(missing)}"] if missing else []
    theirs = _on_record(EVALUATIONS, number)
    if theirs is None:
        texts.append("training of the networks: not on record for this source")
    for field in records[0]["settings"]["training"] if theirs else ():
        pairs = [
            (
                record["settings"]["training"].get(field),
                getattr(protocol(theirs[0], record["settings"]["network"]["name"]), field),
            )
            for record in records
        ]
        differ = [pair for pair in pairs if pair[0] != pair[1]]
        if differ:
            ours, published = (
                dict.fromkeys(_plain(value, field) for value in side) for side in zip(*differ, strict=True)
            )
            texts.append(f"{field} of training: {', '.join(ours)} (published: {', '.join(published)})")
    steps, augmentation = _on_record(DISTILLATIONS, number) or (None, None)
    made = {
        "steps": (steps, {sum(stage["steps"] for stage in card["stages"]) for card in cards}),
        "siamese augmentation": (
            augmentation,
            {card["settings"]["surrogate"]["augmentation"] for card in cards},
        ),
    }
    for name, (published, found) in made.items():
        if published is not None and found - {published}:
            ours = " or ".join(_plain(value, name) for value in sorted(found))
            texts.append(f"{name}: {ours} (published: {_plain(published, name)})")
    priors = sorted({Path(card["settings"]["prior"]).stem for card in cards})
    if number["method"] in ("GLaD", "H-GLaD") and priors:
        texts.append(f"generator: {', '.join(priors)} (published: StyleGAN-XL trained on ImageNet)")
    return texts


def _plain(value: object, field: str = "") -> str:
    if isinstance(value, float):
        return f"{value:g}"
    text = "none" if value in (None, "") else str(value)
    return text.replace("_", ", ") if "augmentation" in field else text
