"""Distilled sets that other code made: files of tensors or arrays, and folders of images by class.

`read_set` brings them to the form of our own sets, and refuses what would be scored wrongly in silence:
another scale of the images, labels of other classes, other sizes. Messages name the options of
`hglad evaluate` and, where they differ, the arguments of `read_set`.
"""

import hashlib
import pickle
import re
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from safetensors.torch import load_file
from torch import Tensor

from hglad.data.datasets import RealData
from hglad.data.image_files import class_folders, content_key, decode_unresized, folder_files
from hglad.errors import HgladError, HgladWarning
from hglad.evaluation.distilled import DistilledSet
from hglad.evaluation.set_checks import (
    Statistics,
    checked_labels,
    expected_size,
    in_unit_range,
    normalisation,
    shaped,
    size_text,
)

IMAGE_NAMES = ("images", "image", "x", "data", "image_syn", "images_syn", "syn_images", "x_train")
LABEL_NAMES = (
    "labels",
    "label",
    "y",
    "targets",
    "target",
    "label_syn",
    "labels_syn",
    "syn_labels",
    "y_train",
)


def read_set(
    path: Path | str,
    real: RealData,
    *,
    labels: Path | str | None = None,
    experiment: int = 0,
    normalised: bool | Statistics = False,
    any_range: bool = False,
) -> DistilledSet:
    """Read a distilled set and check it against the data set that it stands for.

    Read are our own folders; `.pt`, `.pth` (tensors only), `.npz`, `.npy` and `.safetensors`, with images and
    labels under their usual names, as a pair, or images alone beside a file of labels; files of results as
    DC, DSA and DM write them; image folders with one folder per class, by name or index, with soft labels
    where their `metadata.csv` has them. Nothing inside a file is run. Images are (n, ch, h, w) or
    (n, h, w, ch), uint8 or float; labels are classes (n,) or probabilities (n, classes). A class without any
    image is a warning: networks cannot learn it.

    Args:
        path: file or folder.
        real: training images of the data set.
        labels: file of the labels, where they lie apart (MTT, GLaD) or others are wanted.
        experiment: which set of a file of results, from 0.
        normalised: whether the images were normalised to zero mean and unit variance, which is undone: True
            takes the statistics of `real`, a pair (mean, std) others. DC's code, and what builds on it,
            divides CIFAR-10 by std (0.2023, 0.1994, 0.2010), not that of its pixels: give what was used.
        any_range: take float images however far they leave [0, 1].

    Returns:
        Images float32 (n, ch, h, w) on the CPU, sorted by class; labels int64 (n,) or float32 (n, classes);
        card with `kind` "foreign", `file`, `sha256` of the content, `layout`, and what the options added.

    Raises:
        HgladError: what is missing, cannot be read without running code, or does not fit the data set.
    """
    path = Path(path)
    if is_own(path):
        return _own_set(path, real, options_given=bool(labels or experiment or normalised or any_range))
    if path.is_dir():
        if labels is not None or experiment:
            raise HgladError(
                f"{path} is a folder of images by class: leave --labels and --experiment out "
                "(labels=, experiment=)"
            )
        images, found, card = _read_folder(path, real)
    else:
        images, found, card = _read_file(path, None if labels is None else Path(labels), experiment)
    with _naming(path):
        images = shaped(images, real)
        hard_or_soft = checked_labels(found, len(images), real)
        undo = normalisation(normalised, real)
        images = in_unit_range(images, undo, any_range)
    if undo is not None:
        card |= {"normalised": {"mean": undo[0].tolist(), "std": undo[1].tolist()}}
    return _sorted_by_class(DistilledSet(images, hard_or_soft, card), real)


def is_own(path: Path | str) -> bool:
    """Whether a path is a folder that `DistilledSet.save` wrote."""
    return any((Path(path) / name).is_file() for name in ("distilled.safetensors", "card.json"))


def _own_set(path: Path, real: RealData, options_given: bool) -> DistilledSet:
    if options_given:
        raise HgladError(f"{path} is a set of hglad with labels and scale of its own: leave the options out")
    distilled = DistilledSet.load(path)
    with _naming(path):
        checked_labels(distilled.labels, len(shaped(distilled.images, real)), real)
    return distilled


@contextmanager
def _naming(path: Path) -> Iterator[None]:
    """Put the file before the text of an error."""
    try:
        yield
    except HgladError as error:
        raise HgladError(f"{path}: {error}") from error


# Files


def _read_file(path: Path, labels: Path | None, experiment: int) -> tuple[Tensor, Tensor, dict]:
    """Images, labels and card of a file."""
    content = _content(path)
    with _naming(path):
        images, found, layout = _images_and_labels(content, experiment)
        images = _as_tensor(images, "images")
        if found is None and labels is None:
            expected = "expected labels as well; give --labels FILE (labels=; MTT and GLaD: labels_best.pt)"
            raise HgladError(f"it holds {layout}: {expected}")
        found = _as_tensor(found, "labels") if labels is None else _labels_of(labels)
    card = {"kind": "foreign", "file": path.name, "sha256": _file_hash(path), "layout": layout}
    if labels is not None:
        card |= {"labels": {"file": labels.name, "sha256": _file_hash(labels)}}
    return images, found, card


def _labels_of(path: Path) -> Tensor:
    """Labels of a file that holds them alone or under one of their names."""
    content = _content(path)
    with _naming(path):
        if isinstance(content, Mapping):
            content = content[_entry(content, LABEL_NAMES, "labels")]
        return _as_tensor(content, "labels")


def _images_and_labels(content: Any, experiment: int) -> tuple[Any, Any, str]:
    """Images, labels (None where there are none) and the name of the layout."""
    if isinstance(content, Mapping) and isinstance(content.get("data"), list | tuple):
        return *_pair_of_results(content["data"], experiment), f"experiment {experiment} of results"
    if experiment:
        raise HgladError(f"experiment is {experiment}, but the file holds a single set: leave it out")
    if isinstance(content, Mapping):
        images, labels = _entry(content, IMAGE_NAMES, "images"), _find(content, LABEL_NAMES)
        layout = f"entry {images} alone" if labels is None else f"entries {images}, {labels}"
        return content[images], content.get(labels), layout
    if isinstance(content, list | tuple) and len(content) == 2:
        return *content, "a pair"
    return content, None, "images alone"


def _pair_of_results(experiments: Sequence, experiment: int) -> Sequence:
    """[images, labels] of one experiment, as DC, DSA and DM write a list of them under `data`."""
    if not 0 <= experiment < len(experiments):
        count = len(experiments)
        expected = f"expected 0 to {count - 1}" if count else "expected 1 or more; get the file again"
        raise HgladError(f"experiment is {experiment} of {count} in it: {expected}")
    pair = experiments[experiment]
    if not isinstance(pair, list | tuple) or len(pair) != 2:
        raise HgladError(
            f"experiment {experiment} is a {type(pair).__name__}: expected images and labels; save both"
        )
    return pair


def _find(content: Mapping, names: Sequence[str]) -> str | None:
    """First of `names` among the keys of a mapping, whatever its case."""
    keys = {str(key).lower(): key for key in content}
    return next((keys[name] for name in names if name in keys), None)


def _entry(content: Mapping, names: Sequence[str], what: str) -> str:
    found = _find(content, names)
    if found is None:
        there = ", ".join(str(key) for key in content) or "nothing"
        raise HgladError(f"it has {there[:200]}: expected an entry {names[0]!r}; rename that of the {what}")
    return found


def _as_tensor(value: Any, what: str) -> Tensor:
    """A dense tensor of real numbers, without gradient history."""
    try:
        tensor = torch.as_tensor(value).detach()
        plain = tensor.layout is torch.strided and tensor.device.type == "cpu"
        if not plain or tensor.is_complex() or tensor.is_quantized:
            raise TypeError("sparse, complex or quantised")
    except (TypeError, ValueError, RuntimeError, OverflowError) as error:
        name = type(value).__name__
        raise HgladError(
            f"its {what} are of type {name}: expected one dense tensor or array of numbers"
        ) from error
    return tensor


def _content(path: Path) -> Any:
    """What a file holds; whatever its reader raises becomes one line."""
    if not path.is_file():
        raise HgladError(f"no file {path}: expected a set's file or folder; check the path")
    if path.suffix.lower() not in _READERS:
        raise HgladError(
            f"{path} is no set: expected a file that ends in {', '.join(_READERS)}; save it as one"
        )
    try:
        return _READERS[path.suffix.lower()](path)
    except HgladError:
        raise
    except Exception as error:  # zipfile, pickle, zlib, NumPy, torch and safetensors raise all kinds
        reason = f"{type(error).__name__} {' '.join(str(error).split())}"[:120].strip()
        raise HgladError(
            f"cannot read {path}: {reason}; it is cut short or of another kind: get or save it again"
        ) from error


class _Number:
    """Stands in for a NumPy number, such as the accuracies beside the images in files of results.

    Nobody reads these here, and with an inert class in the place of NumPy's functions the file can run none.
    """

    def __init__(self, *_: object) -> None: ...

    def __setstate__(self, _: object) -> None: ...


_NUMPY_NAMES = ("numpy.core.multiarray.scalar", "numpy._core.multiarray.scalar", "numpy.dtype")


def _read_torch(path: Path) -> Any:
    try:
        numbers = [(_Number, name) for name in _NUMPY_NAMES]
        with warnings.catch_warnings(), torch.serialization.safe_globals(numbers):
            warnings.simplefilter("ignore")  # about pickle protocols that it then refuses
            return torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:  # its text advises to load without the restriction: never shown
        refused = re.search(r"GLOBAL ([\w.]+)", str(error))
        reason = f"it asks for {refused[1]}, which is not loaded" if refused else "it is no file of tensors"
        raise HgladError(
            f"cannot read {path}: {reason}; where you trust it, save its images and labels as tensors only"
        ) from error


def _read_numpy(path: Path) -> Any:
    content = np.load(path, allow_pickle=False)
    if isinstance(content, np.ndarray):
        return content
    with content:
        return dict(content)


_READERS = {
    ".pt": _read_torch,
    ".pth": _read_torch,
    ".npz": _read_numpy,
    ".npy": _read_numpy,
    ".safetensors": load_file,
}


def _file_hash(path: Path) -> str:
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


# Image folders


def _read_folder(path: Path, real: RealData) -> tuple[Tensor, Tensor, dict]:
    """Images, labels and card of a folder of images with one folder per class, in `train/` or directly."""
    if class_folders(path) == ("train",):  # as `hglad export` writes it
        path = path / "train"
    files = folder_files(path)
    with _naming(path):
        classes, layout = _class_indices(files, real)
    paths = [file for group in files.values() for file in group]
    images = torch.from_numpy(_stack(decode_unresized(paths, 3), paths, real))
    if real.image_shape[0] == 1 and (images == images[:, :1]).all():
        images = images[:, :1]  # grey pictures are often written with three equal channels
    found = torch.tensor(classes).repeat_interleave(torch.tensor([len(group) for group in files.values()]))
    key = content_key(files, real.image_shape[-1], 3)
    card = {"kind": "foreign", "file": path.resolve().name, "sha256": key, "layout": layout}
    listing = path / "metadata.csv"
    soft = _probabilities(listing, paths, len(real.classes)) if listing.is_file() else None
    if soft is None:
        return images, found, card
    return images, soft, card | {"labels": {"file": listing.name, "sha256": _file_hash(listing)}}


def probability_columns(classes: int) -> list[str]:
    """Columns of soft labels in the `metadata.csv` of an image folder: of classes by their number."""
    return [f"probability_{index}" for index in range(classes)]


def _probabilities(listing: Path, paths: Sequence[Path], classes: int) -> Tensor | None:
    """Soft labels float32 (n, classes) of the files beside a listing; None where it has no such columns."""
    try:
        table = pd.read_csv(listing, index_col="file_name")
    except ValueError:  # another table: the folders say the class
        return None
    if not set(probability_columns(classes)) <= set(table):
        return None
    names = [path.relative_to(listing.parent).as_posix() for path in paths]
    missing = [name for name in names if name not in table.index]
    if missing:
        raise HgladError(f"{listing} has no labels of {missing[0]}: add them or remove the image")
    return torch.from_numpy(table.loc[names, probability_columns(classes)].to_numpy(np.float32))


def _class_indices(names: Sequence[str], real: RealData) -> tuple[list[int], str]:
    """Class of every folder and how it was found: by name, or else by index."""
    if set(names) <= set(real.classes):
        return [real.classes.index(name) for name in names], "folders by class name"
    count = len(real.classes)
    other = [name for name in names if not (name.isdecimal() and int(name) < count)]
    if other:
        wrong = next((name for name in other if name not in real.classes), other[0])
        raise HgladError(
            f"folder {wrong!r} does not fit {real.name!r}: expected class names such as {real.classes[0]!r} "
            f"for all folders, or 0 to {count - 1} for all; rename it"
        )
    return [int(name) for name in names], "folders by class index"


def _stack(images: Sequence[np.ndarray], paths: Sequence[Path], real: RealData) -> np.ndarray:
    """(n, ch, h, w) out of images of the data set's size; nothing is resized."""
    for image, path in zip(images, paths, strict=True):
        if image.shape[1:] != real.image_shape[1:]:
            raise HgladError(f"image {path} is {size_text(image.shape)}: {expected_size(real)}")
    return np.stack(images)


def _sorted_by_class(distilled: DistilledSet, real: RealData) -> DistilledSet:
    order = distilled.hard_labels.argsort(stable=True)
    labels = distilled.labels[order]
    weights = labels.bincount(minlength=len(real.classes)) if labels.ndim == 1 else labels.sum(dim=0)
    missing = [name for name, weight in zip(real.classes, weights.tolist(), strict=True) if not weight]
    if missing:
        names = ", ".join(missing[:5]) + (", ..." if len(missing) > 5 else "")
        message = f"{distilled.card['file']} has no image of {len(missing)} classes of {real.name!r}: {names}"
        warnings.warn(message, HgladWarning, stacklevel=3)
    return DistilledSet(distilled.images[order], labels, distilled.card)
