"""Distilled sets for other tools: a folder of PNGs, Parquet for Hugging Face `datasets`, PyTorch.

Each export is a folder with a data-set card, `README.md`: keys for the Hub and a text for people. A distilled
set is made from its source and may show it: what the license of the source means for it is stated, not
interpreted. Nothing is uploaded.
"""

import copy
import io
import json
import warnings
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import pandas as pd
import torch
import yaml
from jinja2 import Environment, FileSystemLoader
from PIL import Image

from hglad import __version__
from hglad.analysis import method_label, metric_label, objective_label
from hglad.data.datasets import IMAGENET_SUBSETS, OTHER_NAMES, load_data
from hglad.errors import HgladError, HgladWarning
from hglad.evaluation.evaluate import mean_interval
from hglad.evaluation.sets import DistilledSet, probability_columns, to_uint8
from hglad.provenance import commit_text
from hglad.settings import suggestion
from hglad.storage import read_json, write_whole

TEMPLATES = Path(__file__).parents[1] / "templates"


def export_set(
    folder: Path | str,
    form: str,
    out: Path | str,
    data: str | None = None,
    root: str | None = None,
    license: str | None = None,
    scores: Path | str | None = None,
) -> int:
    """Write the distilled set of a folder in another form, with its card.

    Args:
        folder: a set as `DistilledSet.save` wrote it.
        form: `imagefolder`, `parquet` or `pt`.
        out: folder to write, all or nothing.
        data: data set that the set stands for; None: as its card says.
        root: folder of the real images, where it is not the card's.
        license: license of one's own data.
        scores: file of `hglad evaluate --json`; None: those of the results that the set lies in.

    Returns:
        Number of images.

    Raises:
        HgladError: no set, a target that is there already, a license for data that has one, scores of another
            set, names of classes that do not fit the set.
    """
    folder, out = Path(folder), Path(out)
    if form not in FORMS:
        raise HgladError(f"unknown format '{form}': {suggestion(form, FORMS)}")
    if out.exists() or out.is_symlink():
        raise HgladError(f"{out} is there already: name a new folder, or remove it")
    if out.suffix in (".pt", ".pth", ".parquet", ".zip"):
        raise HgladError(f"--out is {out}: expected the name of a folder, which also gets the data-set card")
    made = DistilledSet.load(folder)
    scored = _scores(folder.resolve(), made.card, scores)
    own = made.card.get("settings", {}).get("data", {})
    name, asked, root = data or own.get("name"), bool(data or root), root or own.get("root")
    if name is None:
        raise HgladError("the set does not say which data it stands for: name the data set with --data NAME")
    title = Path(root if name == "folder" and root else name).resolve().name  # others do not have the path
    source = source_of(title, license, folder=name == "folder" or Path(name).is_dir())
    classes = _class_names(made, name, root, title, asked)
    card = copy.deepcopy(made.card)
    if "settings" in card:  # paths mean nothing to others
        card["settings"]["prior"] = Path(card["settings"]["prior"]).name
        if card["settings"]["data"].get("root"):
            card["settings"]["data"]["root"] = Path(card["settings"]["data"]["root"]).name
    made = replace(made.sorted(), card=card)
    with write_whole(out) as draft:
        draft.mkdir()
        reading, files = FORMS[form](made, classes, draft)
        text = _card(made, len(classes), source, scored, reading, files, eight_bit=form != "pt")
        (draft / "README.md").write_text(text, encoding="utf-8")
    return len(made.images)


def _class_names(made: DistilledSet, name: str, root: str | None, title: str, asked: bool) -> tuple[str, ...]:
    """Names of the classes of the data; where they are not at hand, and nobody names them, numbers."""
    found = len(made.counts)
    try:
        classes = load_data(name, root, made.images.shape[-1]).train.classes
    except HgladError as error:
        if asked:
            raise
        known = made.card.get("classes", 0) if made.labels.ndim == 1 else 0  # the last may have no image
        count = max(found, known)
        classes = tuple(map(str, range(count)))
        missing = f"classes are called 0 to {count - 1}, for their names are not at hand ({error})"
        warnings.warn(f"{missing}; give the data with --root", HgladWarning, stacklevel=3)
    if found > len(classes) or (made.labels.ndim == 2 and found != len(classes)):
        expected = "name the data that it stands for with --data"
        raise HgladError(f"the set has {found} classes, {title} has {len(classes)}: {expected}")
    return classes


# Forms: each writes its files and returns keys of the card that tell the Hub how to read them, and a text.


def folder_names(classes: tuple[str, ...]) -> tuple[str, ...]:
    """Names of the classes' folders: their own, or all numbers where one cannot name a folder."""
    plain = all(name and not name.startswith(".") and not set(name) & set("/\\:\0") for name in classes)
    if plain and len({name.lower() for name in classes}) == len(classes):  # some systems take a for A
        return classes
    return tuple(f"{index:0{len(str(len(classes) - 1))}d}" for index in range(len(classes)))


def _pictures(made: DistilledSet, classes: tuple[str, ...]) -> Iterator[tuple[str, bytes]]:
    """`<class>/<number>.png` and content of each image, in order."""
    folders, digits = folder_names(classes), max(3, len(str(max(made.counts) - 1)))
    counted = dict.fromkeys(folders, 0)
    for image, label in zip(to_uint8(made.images), made.hard_labels.tolist(), strict=True):
        pixels, buffer, folder = image.permute(1, 2, 0).numpy(), io.BytesIO(), folders[label]
        Image.fromarray(pixels[..., 0] if pixels.shape[2] == 1 else pixels).save(buffer, format="png")
        yield f"{folder}/{counted[folder]:0{digits}d}.png", buffer.getvalue()
        counted[folder] += 1


def _label_column(names: Sequence[str]) -> dict:
    return {"name": "label", "dtype": {"class_label": {"names": {str(i): n for i, n in enumerate(names)}}}}


LOADING = '\n\n```python\nfrom datasets import load_dataset\n\nload_dataset("PATH")["train"]\n```'


def _image_folder(made: DistilledSet, classes: tuple[str, ...], out: Path) -> tuple[dict, str]:
    paths, columns = [], []
    for path, picture in _pictures(made, classes):
        (out / "train" / path).parent.mkdir(parents=True, exist_ok=True)
        (out / "train" / path).write_bytes(picture)
        paths.append(path)
    text = "- `train/<class>/<number>.png`: the images"
    if made.labels.ndim == 2:
        columns = probability_columns(len(classes))
        table = pd.DataFrame(made.labels.numpy(), columns=columns)
        table.insert(0, "file_name", paths)
        table.insert(1, "label", [path.partition("/")[0] for path in paths])
        table.to_csv(out / "train" / "metadata.csv", index=False, float_format="%.9g")
        text += "\n- `train/metadata.csv`: the probability of every class by file, in the classes' order"
    # The columns as an option of the reader, which else sorts classes by name, or takes their names as text.
    soft = [{"name": name, "dtype": "float32"} for name in columns]
    features = [{"name": "image", "dtype": "image"}, _label_column(folder_names(classes)), *soft]
    files = [{"split": "train", "path": "train/**"}]
    reading = {"configs": [{"config_name": "default", "data_files": files, "features": features}]}
    return reading, f"{text}{LOADING}"


def _parquet(made: DistilledSet, classes: tuple[str, ...], out: Path) -> tuple[dict, str]:
    import pyarrow
    from pyarrow import parquet

    images = [{"bytes": picture, "path": path} for path, picture in _pictures(made, classes)]
    picture_type = pyarrow.struct({"bytes": pyarrow.binary(), "path": pyarrow.string()})
    columns = {
        "image": pyarrow.array(images, picture_type),
        "label": pyarrow.array(made.hard_labels.tolist(), pyarrow.int64()),
    }
    features = {"image": {"_type": "Image"}, "label": {"names": list(classes), "_type": "ClassLabel"}}
    reading = [{"name": "image", "dtype": "image"}, _label_column(classes)]
    text = "- `data/train-00000-of-00001.parquet`: `image` (PNG) and `label`"
    if made.labels.ndim == 2:
        values = pyarrow.array(made.labels.flatten().tolist(), pyarrow.float32())
        columns["probabilities"] = pyarrow.FixedSizeListArray.from_arrays(values, len(classes))
        number = {"dtype": "float32", "_type": "Value"}
        features["probabilities"] = {"feature": number, "length": len(classes), "_type": "Sequence"}
        reading.append({"name": "probabilities", "sequence": "float32", "length": len(classes)})
        text += "\n- its column `probabilities`: of every class; `label` is the most probable one"
    (out / "data").mkdir()
    schema = {b"huggingface": json.dumps({"info": {"features": features}}).encode()}  # as `datasets` keeps it
    table = pyarrow.table(columns).replace_schema_metadata(schema)
    parquet.write_table(table, out / "data" / "train-00000-of-00001.parquet")
    return {"dataset_info": {"features": reading}}, f"{text}{LOADING}"


def _torch(made: DistilledSet, classes: tuple[str, ...], out: Path) -> tuple[dict, str]:
    images = made.images / 255 if made.images.dtype == torch.uint8 else made.images
    entries = {"images": images.float().contiguous(), "labels": made.labels.contiguous()}
    torch.save(entries | {"classes": list(classes), "card": made.card}, out / "distilled.pt")
    text = (
        "- `distilled.pt`: a dictionary of `images` (float32, about 0 to 1), `labels` (classes, or a "
        "probability of every class), `classes` (names) and `card`\n\n```python\nimport torch\n\n"
        'torch.load("PATH/distilled.pt", weights_only=True)\n```'
    )
    return {}, text  # the Hub does not read it


FORMS = {"imagefolder": _image_folder, "parquet": _parquet, "pt": _torch}


# Sources


class Source(NamedTuple):
    """Data that sets are made from: how they may be passed on, and what their authors want cited."""

    title: str  # for a reader
    license: str  # what its authors allow, in words
    identifier: str  # the Hub's name of the license, or "other" or "unknown"
    citation: str = ""  # what its authors want cited
    link: str = ""  # where its terms are


ON_HUB = (  # licenses that the Hub has a name for, among those that data usually come under
    "mit", "apache-2.0", "cc0-1.0", "cc-by-4.0", "cc-by-sa-4.0", "cc-by-nc-4.0", "cc-by-nc-sa-4.0", "odc-by"
)  # fmt: skip


def source_of(name: str, license: str | None = None, folder: bool = False) -> Source:
    """What is known of a data set, or what its owner states.

    Args:
        name: name of the data set; of one's own a name for the reader.
        license: license of one's own data.
        folder: whether it is a folder of images of that name, which nobody but its owner knows.

    Raises:
        HgladError: another license for data whose license is known.
    """
    sources = yaml.safe_load((TEMPLATES / "sources.yaml").read_text(encoding="utf-8"))
    data = OTHER_NAMES.get(name, name)
    found = sources["ten classes of imagenet"] if data in IMAGENET_SUBSETS else sources.get(data)
    known = found and Source(**found | {"title": found["title"].format(data)})
    if known is not None and license is None:
        going_by = ", going by the name of the folder of images"
        return known._replace(title=known.title + going_by) if folder else known
    if known is not None and not folder:
        raise HgladError(f"--license is {license!r}, but {name} has one: {known.license}; leave it out")
    if license is None:
        return Source(name, "unknown: state it", "unknown")
    identifier = license.strip().lower().replace(" ", "-")
    return Source(name, license.strip(), identifier if identifier in ON_HUB else "other")


# The card


def _scores(folder: Path, card: dict, file: Path | str | None) -> str:
    """Scores of a set in Markdown: of a file of `hglad evaluate`, else of the results around the set."""
    evaluations = []
    if file is not None:
        content = read_json(file)
        if not isinstance(content, dict) or not {"rows", "training", "set", "provenance"} <= content.keys():
            raise HgladError(f"{file} holds no scores: expected a file of hglad evaluate --json")
        if content["set"] != card:
            another = f"{file} holds scores of another set"
            raise HgladError(f"{another}: score this one with hglad evaluate --json")
        rows = [row for row in content["rows"] if row["set"] == "given"]
        evaluations.append((rows, content["training"], content["provenance"]))
    elif folder.parent.name == "sets":
        for path in sorted((folder.parent.parent / "evaluations").glob("*.json")):
            content = read_json(path)
            rows = [row for row in content["rows"] if row.get("iterate") is None]
            if rows and content["provenance"].get("set") == folder.name:
                for row in rows if rows[0].get("augmentation") is not None else ():
                    row["network"] += f", augmentation {row['augmentation'] or 'none'}"
                training = {rows[0]["network"]: content["provenance"]["settings"]["training"]}
                evaluations.append((rows, training, content["provenance"]))
    if not evaluations:
        return "Not scored."
    lines, trained = [], {}
    for rows, training, _ in evaluations:
        for network, group in pd.DataFrame(rows).groupby("network", sort=False):
            low, high = mean_interval(group["accuracy"])
            spread = f" ± {(high - low) / 2:.1f}" if low <= high else ""
            accuracy = f"{group['accuracy'].mean():.1f}{spread}"
            count = {"sets (n)": group["seed"].nunique(), "networks (m)": len(group)}
            lines.append({"network": network, "accuracy (%)": accuracy} | count)
            text = {key: value or "none" for key, value in training[network].items() if value is not None}
            text = ", ".join(f"{key} {value}" for key, value in text.items())
            trained.setdefault(text, []).append(network)
    records = [record for _, _, record in evaluations]
    devices, codes = sorted({each["device"] for each in records}), sorted(set(map(commit_text, records)))
    days = sorted({each["started"][:10] for each in records})
    dates = days[0] if len(days) == 1 else f"{days[0]} to {days[-1]}"
    parts = [
        pd.DataFrame(lines).to_markdown(index=False, disable_numparse=True),
        "Test accuracy on real images, mean ± half width of the 95 % t interval over the networks of "
        "this one set, which says nothing about another set by the same method.",
        *(f"Training ({'; '.join(networks)}): {text}." for text, networks in trained.items()),
        f"Device: {'; '.join(devices)}. Code: {', '.join(codes)}. Computed: {dates}.",
    ]
    return "\n\n".join(parts)


def _card(
    made: DistilledSet, classes: int, source: Source, scores: str, reading: dict, files: str, eight_bit: bool
) -> str:
    """The whole README: `reading` are keys for the Hub, `files` says what lies where."""
    card, count = made.card, len(made.images)
    settings, record = card.get("settings"), card.get("provenance")
    plain = {key: value for key, value in card.items() if not isinstance(value, dict | list)}
    if settings is None:
        what = method_label(card.get("kind", "own"))
        method = {"kind": method_label(card.get("kind", "unknown"))} | plain
    else:
        what = f"{method_label(settings['kind'])} with {settings['objective'].upper()}"
        method = _method(card, settings)
    few, most = min(made.counts), max(made.counts)
    per_class = f"{few if few == most else f'{few} to {most}'} image{'' if most == 1 else 's'} per class"
    name = f"{source.title.split(',')[0].split(' (')[0]}, {what}, {per_class}"
    origin = {"made": "unknown: the set has no record of it"}
    if record is not None:
        packages = [f"{package} {version}" for package, version in record["packages"].items()]
        origin = {
            "code": commit_text(record),
            "versions": ", ".join([f"hglad {record['hglad']}", f"Python {record['python']}", *packages]),
            "device": record["device"],
            "computed": f"{record['started']}, {record['seconds']:.0f} s",
        }
    hashes = {"data hash": card.get("data_hash"), "prior hash": card.get("prior_hash")}
    origin |= {key: value[:12] for key, value in hashes.items() if value}
    keys = {"pretty_name": name, "license": source.identifier}
    if source.identifier == "other":
        keys |= {"license_name": source.license} | ({"license_link": source.link} if source.link else {})
    sizes = {1_000: "n<1K", 10_000: "1K<n<10K", 100_000: "10K<n<100K", 1_000_000: "100K<n<1M"}
    size = next((size for bound, size in sizes.items() if count < bound), "n>1M")
    keys |= {"task_categories": ["image-classification"], "size_categories": [size]}
    keys |= {"tags": ["dataset-distillation", "synthetic", "hglad"]} | reading
    templates = Environment(loader=FileSystemLoader(TEMPLATES), trim_blocks=True, keep_trailing_newline=True)
    return templates.get_template("card.md").render(
        keys=_yaml(keys), name=name, count=count, shape=made.images.shape[1:], classes=classes,
        soft=made.labels.ndim == 2, version=__version__, files=files, eight_bit=eight_bit, source=source,
        method=method, scores=scores, origin=origin, settings=_yaml(settings or plain, flow=None),
    )  # fmt: skip


def _method(card: dict, settings: dict) -> dict[str, Any]:
    """What was done, of a set that a search made."""
    best, steps = card["best"], sum(stage["steps"] for stage in card["stages"])
    by_metric = f"smallest {metric_label(settings['metric']['name'])} of the measured iterates"
    last = settings["search"].get("selection", "metric") == "last"
    stage = card["stages"][best["stage"]]["name"]
    return {
        "search": f"{method_label(settings['kind'])}, {steps} steps in {len(card['stages'])} stages",
        "objective": objective_label(settings["objective"]),
        "generator": "none" if settings["prior"] == "pixels" else settings["prior"].rpartition("/")[2],
        "images per class": settings["ipc"],
        "seed": settings["seed"],
        "selection": "last iterate" if last else by_metric,
        "selected": f"step {best['step']} of stage {stage}, distance {card['distance']:.4g}",
    }


def _yaml(content: object, flow: bool | None = False) -> str:
    """YAML in lines, or with `flow` None with the innermost groups in one line each."""
    return yaml.safe_dump(content, sort_keys=False, allow_unicode=True, width=110, default_flow_style=flow)
