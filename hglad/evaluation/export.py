"""Distilled sets in the forms of other tools: a folder of PNGs, Parquet for Hugging Face `datasets`, PyTorch.

Each export is a folder with a data-set card, `README.md`. Nothing is uploaded.
"""

import copy
import io
import json
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Self

import pandas as pd
import torch
from PIL import Image

from hglad.data.datasets import load_data
from hglad.errors import HgladError, HgladWarning
from hglad.evaluation.card import SetCard
from hglad.evaluation.card_scores import find_scores
from hglad.evaluation.licenses import source_of
from hglad.evaluation.sets import DistilledSet, probability_columns, to_uint8
from hglad.settings import suggestion
from hglad.storage import publish


@dataclass(frozen=True)
class Request:
    """What is asked for."""

    form: str
    """`imagefolder`, `parquet` or `pt`."""
    data: str | None = None
    """Data set that the set stands for; None: as its card says."""
    root: str | None = None
    """Folder of the real images, where it is not the card's."""
    licence: str | None = None
    """Licence of one's own data."""
    scores: str | None = None
    """File of `hglad evaluate --json`."""


@dataclass(frozen=True)
class LabelledImages:
    """What is written: a set in the order of its classes."""

    distilled: DistilledSet
    classes: tuple[str, ...]

    @property
    def pictures(self) -> Iterator[tuple[str, bytes]]:
        """Path below the split, `<class>/<number>.png`, and content of each image, in order."""
        folders, digits = folder_names(self.classes), max(3, len(str(max(self.distilled.counts) - 1)))
        counted = dict.fromkeys(folders, 0)
        for image, label in zip(to_uint8(self.distilled.images), self.distilled.hard_labels, strict=True):
            folder = folders[int(label)]
            yield f"{folder}/{counted[folder]:0{digits}d}.png", _png(image)
            counted[folder] += 1

    @property
    def soft(self) -> bool:
        """Whether the labels are probabilities."""
        return self.distilled.labels.ndim == 2


def _png(image: torch.Tensor) -> bytes:
    """PNG of uint8 (ch, h, w)."""
    pixels = image.permute(1, 2, 0).numpy()
    buffer = io.BytesIO()
    Image.fromarray(pixels[..., 0] if pixels.shape[2] == 1 else pixels).save(buffer, format="png")
    return buffer.getvalue()


def folder_names(classes: tuple[str, ...]) -> tuple[str, ...]:
    """Names of the classes' folders: their own, or all numbers where one cannot name a folder."""
    plain = all(name and not name.startswith(".") and not set(name) & set("/\\:\0") for name in classes)
    if plain and len({name.lower() for name in classes}) == len(classes):  # some systems take a for A
        return classes
    return tuple(f"{index:0{len(str(len(classes) - 1))}d}" for index in range(len(classes)))


def export_set(folder: Path | str, request: Request, out: Path | str) -> int:
    """Write the distilled set of a folder in another form, with its card.

    Args:
        folder: a set as `DistilledSet.save` wrote it.
        request: form, and what the card needs to know.
        out: folder to write, all or nothing.

    Returns:
        Number of images.

    Raises:
        HgladError: no set, a target that is there already, a licence for data that has one, scores of another
            set, names of classes that do not fit the set.
    """
    folder, out = Path(folder), Path(out)
    if request.form not in FORMS:
        raise HgladError(f"unknown format '{request.form}': {suggestion(request.form, FORMS)}")
    _check_target(out)
    distilled = _sorted(DistilledSet.load(folder))
    scores, origin = find_scores(folder, distilled, request.scores), Origin.of(distilled.card, request)
    source = source_of(origin.title, request.licence, origin.is_folder)
    distilled = replace(distilled, card=_without_paths(distilled.card))
    content, form = LabelledImages(distilled, origin.classes(distilled)), FORMS[request.form]
    reading, files = form.reading(content), form.described(content)
    card = SetCard(distilled, content.classes, source, scores, reading, files, form.eight_bit)
    with publish(out) as draft:
        draft.mkdir()
        form.write(content, draft)
        (draft / "README.md").write_text(card.text, encoding="utf-8")
    return len(distilled.images)


def _check_target(out: Path) -> None:
    if out.exists() or out.is_symlink():
        raise HgladError(f"{out} is there already: name a new folder, or remove it")
    if out.suffix in (".pt", ".pth", ".parquet", ".zip"):
        raise HgladError(f"--out is {out}: expected the name of a folder, which also gets the data-set card")


def _sorted(distilled: DistilledSet) -> DistilledSet:
    order = distilled.hard_labels.argsort(stable=True)
    return replace(distilled, images=distilled.images[order], labels=distilled.labels[order], iterates=None)


def _without_paths(card: dict) -> dict:
    """A card in which data and generator have names, as their paths mean nothing to others."""
    if "settings" not in card:
        return card
    settings = copy.deepcopy(card["settings"])
    settings["prior"] = Path(settings["prior"]).name
    if settings["data"].get("root"):
        settings["data"]["root"] = Path(settings["data"]["root"]).name
    return card | {"settings": settings}


@dataclass(frozen=True)
class Origin:
    """The data that a set stands for."""

    name: str
    """Name of a data set, `folder`, or the path of a folder of images."""
    root: str | None
    """Folder of the images where the data set needs one."""
    asked: bool
    """Whether the caller names them, so that they must be there."""

    @classmethod
    def of(cls, card: dict, request: Request) -> Self:
        """What the request says, else what the card of the set says; neither raises `HgladError`."""
        own = card.get("settings", {}).get("data", {})
        name, root = request.data or own.get("name"), request.root or own.get("root")
        if name is None:
            raise HgladError(
                "the set does not say which data it stands for: name the data set with --data NAME"
            )
        return cls(name, root, asked=bool(request.data or request.root))

    @property
    def is_folder(self) -> bool:
        """Whether it is a folder of images, of which only the name is known."""
        return self.name == "folder" or Path(self.name).is_dir()

    @property
    def title(self) -> str:
        """Name for a reader; of a folder its last part, since others do not have the path."""
        return Path(self.root if self.name == "folder" and self.root else self.name).resolve().name

    def classes(self, distilled: DistilledSet) -> tuple[str, ...]:
        """Names of the classes of a set; where the data are not at hand numbers, and a warning."""
        try:
            classes = load_data(self.name, self.root, distilled.images.shape[-1]).train.classes
        except HgladError as error:
            if self.asked:
                raise
            classes = _numbers(distilled)
            missing = f"classes are called 0 to {len(classes) - 1}, for their names are not at hand ({error})"
            warnings.warn(f"{missing}; give the data with --root", HgladWarning, stacklevel=3)
        found = len(distilled.counts)
        if found > len(classes) or (distilled.labels.ndim == 2 and found != len(classes)):
            expected = "name the data that it stands for with --data"
            raise HgladError(f"the set has {found} classes, {self.title} has {len(classes)}: {expected}")
        return classes


def _numbers(distilled: DistilledSet) -> tuple[str, ...]:
    count = len(distilled.counts)
    if distilled.labels.ndim == 1:  # the last classes may have no image
        count = max(count, distilled.card.get("classes", 0))
    return tuple(map(str, range(count)))


# Forms


@dataclass(frozen=True)
class Form:
    """One form of export."""

    write: Callable[[LabelledImages, Path], None]
    """Writes the files of the content into a folder."""
    reading: Callable[[LabelledImages], dict]
    """Keys of the card that tell the Hub how the files are read."""
    files: str
    """What lies where, in Markdown."""
    loading: str
    """How it is read, in Python."""
    soft_files: str = ""
    """What soft labels add to the files."""
    eight_bit: bool = True
    """Whether images are rounded to 256 levels."""

    def described(self, content: LabelledImages) -> str:
        """Files and how they are read, in Markdown."""
        files = f"{self.files}\n{self.soft_files}" if content.soft and self.soft_files else self.files
        return f"{files}\n\n```python\n{self.loading}\n```"


def _write_image_folder(content: LabelledImages, out: Path) -> None:
    paths = []
    for path, picture in content.pictures:
        file = out / "train" / path
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(picture)
        paths.append(path)
    if content.soft:
        columns = probability_columns(len(content.classes))
        table = pd.DataFrame(content.distilled.labels.numpy(), columns=columns)
        table.insert(0, "file_name", paths)
        table.insert(1, "label", [path.partition("/")[0] for path in paths])
        table.to_csv(out / "train" / "metadata.csv", index=False, float_format="%.9g")


def _read_image_folder(content: LabelledImages) -> dict:
    """Columns as an option of the reader, which else sorts classes by name, or takes their names as text."""
    columns = probability_columns(len(content.classes)) if content.soft else []
    labels = _label_column(folder_names(content.classes))
    soft = ({"name": name, "dtype": "float32"} for name in columns)
    features = [{"name": "image", "dtype": "image"}, labels, *soft]
    files = [{"split": "train", "path": "train/**"}]
    return {"configs": [{"config_name": "default", "data_files": files, "features": features}]}


def _label_column(names: tuple[str, ...]) -> dict:
    return {"name": "label", "dtype": {"class_label": {"names": {str(i): n for i, n in enumerate(names)}}}}


def _write_parquet(content: LabelledImages, out: Path) -> None:
    import pyarrow
    from pyarrow import parquet

    images = [{"bytes": picture, "path": path} for path, picture in content.pictures]
    picture_type = pyarrow.struct({"bytes": pyarrow.binary(), "path": pyarrow.string()})
    columns = {
        "image": pyarrow.array(images, picture_type),
        "label": pyarrow.array(content.distilled.hard_labels.tolist(), pyarrow.int64()),
    }
    if content.soft:
        values = pyarrow.array(content.distilled.labels.flatten().tolist(), pyarrow.float32())
        columns["probabilities"] = pyarrow.FixedSizeListArray.from_arrays(values, len(content.classes))
    (out / "data").mkdir()
    schema = {b"huggingface": json.dumps({"info": {"features": _arrow_features(content)}}).encode()}
    parquet.write_table(
        pyarrow.table(columns).replace_schema_metadata(schema), out / "data" / "train-00000-of-00001.parquet"
    )


def _arrow_features(content: LabelledImages) -> dict:
    """Types of the columns as `datasets` keeps them in the metadata of a schema."""
    found = {"image": {"_type": "Image"}, "label": {"names": list(content.classes), "_type": "ClassLabel"}}
    if content.soft:
        number = {"dtype": "float32", "_type": "Value"}
        found["probabilities"] = {"feature": number, "length": len(content.classes), "_type": "Sequence"}
    return found


def _read_parquet(content: LabelledImages) -> dict:
    found = [{"name": "image", "dtype": "image"}, _label_column(content.classes)]
    if content.soft:
        found.append({"name": "probabilities", "sequence": "float32", "length": len(content.classes)})
    return {"dataset_info": {"features": found}}


def _write_torch(content: LabelledImages, out: Path) -> None:
    distilled = content.distilled
    images = distilled.images / 255 if distilled.images.dtype == torch.uint8 else distilled.images
    entries = {
        "images": images.float().contiguous(),
        "labels": distilled.labels.contiguous(),
        "classes": list(content.classes),
        "card": distilled.card,
    }
    torch.save(entries, out / "distilled.pt")


BY_DATASETS = 'from datasets import load_dataset\n\nload_dataset("PATH")["train"]'
FORMS = {
    "imagefolder": Form(
        _write_image_folder,
        _read_image_folder,
        "- `train/<class>/<number>.png`: the images",
        BY_DATASETS,
        "- `train/metadata.csv`: the probability of every class by file, in the order of the classes",
    ),
    "parquet": Form(
        _write_parquet,
        _read_parquet,
        "- `data/train-00000-of-00001.parquet`: `image` (PNG) and `label`",
        BY_DATASETS,
        "- its column `probabilities`: of every class; `label` is the most probable one",
    ),
    "pt": Form(
        _write_torch,
        lambda content: {},  # the Hub does not read it
        "- `distilled.pt`: a dictionary of `images` (float32, about 0 to 1), `labels` (classes, or a "
        "probability of every class), `classes` (names) and `card`",
        'import torch\n\ntorch.load("PATH/distilled.pt", weights_only=True)',
        eight_bit=False,
    ),
}
