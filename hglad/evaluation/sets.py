"""Distilled sets: ours, kept as a folder; those of others, files of tensors or arrays and folders of images.

`read_set` brings a set of others to the form of our own, and refuses what would be scored wrongly in silence:
another scale of the images, labels of other classes, other sizes. Its checks (`fit_shape`, `fit_labels`,
`fit_range`) each return their input in our form or raise `HgladError`, which names the options of
`hglad evaluate` and, where they differ, the arguments of `read_set`.
"""

import hashlib
import math
import pickle
import re
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Self

import numpy as np
import pandas as pd
import torch
from safetensors.torch import load_file
from torch import Tensor

from hglad.data.datasets import RealData
from hglad.data.image_files import class_folders, content_key, decode_unresized, folder_files
from hglad.errors import HgladError, HgladWarning
from hglad.storage import read_json, read_tensors, write_json, write_tensors, write_whole

IMAGES = ("distilled.safetensors", "grid.png")  # what a set has with its card
LEFT_OUT = "images-left-out"  # in their place
IMAGE_NAMES = ("images", "image", "x", "data", "image_syn", "images_syn", "syn_images", "x_train")
LABEL_NAMES = (
    "labels", "label", "y", "targets", "target", "label_syn", "labels_syn", "syn_labels", "y_train"
)  # fmt: skip
LARGEST_SPILL = 0.2
"""Mean distance of the values to [0, 1] up to which float images pass as images in [0, 1].

Images that are optimized without a bound leave [0, 1] a little: sets of this project by DC, DM and MTT in
pixel space, of CIFAR-10 and of the digits, reach 0.11 (extremes -2.0 and 2.7). On another scale it is larger:
real images normalized to zero mean and unit variance have 0.49 to 0.56 (the digits and the two photographs of
scikit-learn), in [-1, 1] 0.25 to 0.58, in [0, 255] tens.
"""
Statistics = tuple[Sequence[float], Sequence[float]]  # mean and standard deviation of each channel, of [0, 1]


def misfit(found: str, expected: str, fix: str) -> HgladError:
    """What does not fit, in the one line of an error."""
    return HgladError(f"{found}: expected {expected}; {fix}")


@dataclass(frozen=True)
class DistilledSet:
    """Images with labels, made to train networks.

    Attributes:
        images: float32 (n, channels, height, width), [0, 1] where the prior keeps to it, not clamped; of
            `hglad.evaluation.baselines.full_set` uint8.
        labels: hard, int64 (n,), or soft, probabilities float32 (n, classes); sorted by class.
        card: settings, selection and provenance.
        iterates: uint8 images of the measured iterates, (iterate, n, channels, height, width), where kept.
    """

    images: Tensor
    labels: Tensor
    card: dict
    iterates: Tensor | None = None

    def __post_init__(self) -> None:
        count, shape = len(self.labels), list(self.images.shape)
        if self.images.ndim != 4 or shape[0] != count:
            found = f"distilled images have shape {shape} for {count} labels"
            raise misfit(found, "(n, channels, height, width) and n labels", "give as many of both")
        hard = self.labels.ndim == 1 and self.labels.dtype == torch.int64
        if not hard and not (self.labels.ndim == 2 and self.labels.is_floating_point()):
            found = f"labels are {self.labels.dtype} {list(self.labels.shape)}"
            raise misfit(found, "int64 (n,) or probabilities, float (n, classes)", "convert them")

    @property
    def hard_labels(self) -> Tensor:
        """Class of every image, int64 (n,); of soft labels the most probable one."""
        return self.labels if self.labels.ndim == 1 else self.labels.argmax(dim=1)

    @property
    def counts(self) -> tuple[int, ...]:
        """Images of every class; under hard labels the last class is the last one that has an image."""
        classes = 0 if self.labels.ndim == 1 else self.labels.shape[1]
        return tuple(self.hard_labels.bincount(minlength=classes).tolist())

    @property
    def ipc(self) -> int:
        """Images per class; a set that has more of some classes than of others raises `HgladError`."""
        few, most = min(self.counts, default=0), max(self.counts, default=0)
        if few != most or not most:
            found = f"the set has {few} to {most} images per class"
            raise HgladError(f"{found}: it has no single ipc; use its counts")
        return most

    @property
    def content_hash(self) -> str:
        """Hex sha256 of images and labels."""
        total = hashlib.sha256(self.images.contiguous().numpy())
        total.update(self.labels.contiguous().numpy())
        return total.hexdigest()

    def sorted(self) -> Self:
        """The set in the order of its classes, without iterates."""
        order = self.hard_labels.argsort(stable=True)
        return replace(self, images=self.images[order], labels=self.labels[order], iterates=None)

    def save(self, folder: Path | str) -> None:
        """Write `distilled.safetensors`, `card.json` and `grid.png`, all or nothing.

        Raises:
            HgladError: the folder holds something other than a distilled set, or cannot be written.
        """
        if Path(folder).is_dir() and any(Path(folder).iterdir()) and not is_own(folder):  # a mistyped path
            raise HgladError(f"{folder} holds other files: give a new folder or that of a distilled set")
        tensors = {"images": self.images, "images_uint8": to_uint8(self.images), "labels": self.labels}
        if self.iterates is not None:
            tensors["iterates"] = self.iterates
        with write_whole(folder) as draft:
            draft.mkdir()
            write_tensors(draft / "distilled.safetensors", tensors)
            write_json(draft / "card.json", self.card)
            save_grid(
                self.sorted().images, self.ipc if len(set(self.counts)) == 1 else None, draft / "grid.png"
            )

    @classmethod
    def load(cls, folder: Path | str) -> Self:
        """Read a folder that `save` wrote.

        Raises:
            HgladError: missing or damaged file, or a file of something else.
        """
        file = Path(folder) / "distilled.safetensors"
        if images_left_out(folder):
            left_out = f"{folder} has a card and no images, as hglad results slim leaves it"
            raise HgladError(f"{left_out}: delete the folder, and hglad run makes it again")
        tensors = read_tensors(file)
        if not {"images", "labels"} <= tensors.keys():
            found = f"{file} has {', '.join(sorted(tensors)[:5])}"
            raise misfit(found, "images and labels", "name the folder of a set")
        card = read_json(Path(folder) / "card.json")
        return cls(tensors["images"], tensors["labels"], card, tensors.get("iterates"))


def is_own(path: Path | str) -> bool:
    """Whether a path is a folder that `DistilledSet.save` wrote."""
    return any((Path(path) / name).is_file() for name in ("distilled.safetensors", "card.json"))


def images_left_out(folder: Path | str) -> bool:
    """Whether `leave_images_out` has deleted the images of a set; those that got lost are no such case."""
    return (Path(folder) / LEFT_OUT).is_file() and not (Path(folder) / "distilled.safetensors").exists()


def leave_images_out(folder: Path | str) -> None:
    """Delete the images of a set and their picture; the card stays as it is, and an empty file says so."""
    (Path(folder) / LEFT_OUT).touch()
    for name in IMAGES:
        (Path(folder) / name).unlink(missing_ok=True)


def to_uint8(images: Tensor) -> Tensor:
    """Images in [0, 1] as uint8, clamped and rounded; a copy of those that are uint8."""
    if images.dtype == torch.uint8:
        return images.clone()  # a file cannot hold two tensors of one memory
    return (images.clamp(0, 1) * 255).round().to(torch.uint8)


def save_grid(images: Tensor, per_class: int | None, path: Path | str) -> None:
    """Write images as a PNG: sorted by class, one column per class; row by row where `per_class` is None."""
    from torchvision.utils import make_grid, save_image  # here: it takes a second, and jobs start often

    images = images / 255 if images.dtype == torch.uint8 else images
    columns = math.ceil(math.sqrt(len(images)))
    if per_class is not None:
        columns = len(images) // per_class
        images = images.unflatten(0, (columns, per_class)).transpose(0, 1).flatten(0, 1)
    with write_whole(path) as draft:
        grid = make_grid(images.clamp(0, 1), nrow=columns, padding=1, pad_value=0.5)
        save_image(grid, draft, format="png")


# Sets of others


def read_set(
    path: Path | str,
    real: RealData,
    *,
    labels: Path | str | None = None,
    experiment: int = 0,
    normalized: bool | Statistics = False,
    any_range: bool = False,
) -> DistilledSet:
    """Read a distilled set and check it against the data set that it stands for.

    Read are our own folders; `.pt`, `.pth` (tensors only), `.npz`, `.npy` and `.safetensors`, with images and
    labels under their usual names, as a pair, or images alone with a file of labels; files of results as
    DC, DSA and DM write them; image folders with one folder per class, by name or index, with soft labels
    where their `metadata.csv` has them. Nothing inside a file is run. Images are (n, ch, h, w) or
    (n, h, w, ch), uint8 or float; labels are classes (n,) or probabilities (n, classes). A class without any
    image is a warning: networks cannot learn it.

    Args:
        path: file or folder.
        real: training images of the data set.
        labels: file of the labels, where they lie apart (MTT, GLaD) or others are wanted.
        experiment: which set of a file of results, from 0.
        normalized: whether the images were normalized to zero mean and unit variance, which is undone: True
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
    with _naming(path):
        if is_own(path):
            if labels or experiment or normalized or any_range:
                own = "a set of hglad with labels and scale of its own"
                raise HgladError(f"{path} is {own}: leave the options out")
            distilled = DistilledSet.load(path)
            fit_labels(distilled.labels, len(fit_shape(distilled.images, real)), real)
            return distilled
        if path.is_dir() and (labels is not None or experiment):
            fix = "leave --labels and --experiment out (labels=, experiment=)"
            raise HgladError(f"{path} is a folder of images by class: {fix}")
        found = _read_folder(path, real) if path.is_dir() else _read_file(path, labels, experiment)
        images, labels, card = found
        images = fit_shape(images, real)
        labels = fit_labels(labels, len(images), real)
        statistics = _statistics(normalized, real)
        images = fit_range(images, statistics, any_range)
    if statistics:
        card["normalized"] = dict(zip(("mean", "std"), map(Tensor.tolist, statistics), strict=True))
    weights = labels.bincount(minlength=len(real.classes)) if labels.ndim == 1 else labels.sum(dim=0)
    missing = [name for name, weight in zip(real.classes, weights.tolist(), strict=True) if not weight]
    if missing:
        names = ", ".join(missing[:5]) + (", ..." if len(missing) > 5 else "")
        message = f"{card['file']} has no image of {len(missing)} classes of {real.name!r}: {names}"
        warnings.warn(message, HgladWarning, stacklevel=2)
    return DistilledSet(images, labels, card).sorted()


@contextmanager
def _naming(path: Path) -> Iterator[None]:
    """Put the file before the text of an error that does not name it."""
    try:
        yield
    except HgladError as error:
        if str(path) in str(error):
            raise
        raise HgladError(f"{path}: {error}") from error


def _read_file(path: Path, labels: Path | str | None, experiment: int) -> tuple[Tensor, Tensor, dict]:
    """Images, labels and card of a file."""
    content = _content(path)
    images, found, layout = content, None, "images alone"
    if isinstance(content, Mapping) and isinstance(content.get("data"), list | tuple):
        count, layout = len(content["data"]), f"experiment {experiment} of results"  # of DC, DSA and DM
        if not 0 <= experiment < count:
            expected = f"0 to {count - 1}" if count else "1 or more"
            raise misfit(f"experiment is {experiment} of {count} in it", expected, "get the file again")
        pair = content["data"][experiment]
        if not isinstance(pair, list | tuple) or len(pair) != 2:
            found = f"experiment {experiment} is a {type(pair).__name__}"
            raise misfit(found, "images and labels", "save both")
        images, found = pair
    elif experiment:
        raise HgladError(f"experiment is {experiment}, but the file holds a single set: leave it out")
    elif isinstance(content, Mapping):
        image_name, label_name = _entry(content, IMAGE_NAMES, "images"), _entry(content, LABEL_NAMES)
        images, found = content[image_name], content.get(label_name)
        layout = f"entry {image_name} alone" if found is None else f"entries {image_name}, {label_name}"
    elif isinstance(content, list | tuple) and len(content) == 2:
        images, found, layout = *content, "a pair"
    images = _tensor(images, "images")
    card = {"kind": "foreign", "file": path.name, "sha256": _file_hash(path), "layout": layout}
    if labels is not None:
        labels = Path(labels)
        with _naming(labels):
            found = _content(labels)
            if isinstance(found, Mapping):
                found = found[_entry(found, LABEL_NAMES, "labels")]
            found = _tensor(found, "labels")
        card |= {"labels": {"file": labels.name, "sha256": _file_hash(labels)}}
    elif found is None:
        fix = "give --labels FILE (labels=; MTT and GLaD: labels_best.pt)"
        raise misfit(f"it holds {layout}", "labels as well", fix)
    return images, _tensor(found, "labels"), card


def _entry(content: Mapping, names: Sequence[str], needed: str | None = None) -> str | None:
    """Key of a mapping that is the first of `names`, whatever its case; None where it is not `needed`."""
    keys = {str(key).lower(): key for key in content}
    found = next((keys[name] for name in names if name in keys), None)
    if found is None and needed:
        there = f"it has {', '.join(map(str, content))[:200] or 'nothing'}"
        raise misfit(there, f"an entry {names[0]!r}", f"rename that of the {needed}")
    return found


def _tensor(value: Any, what: str) -> Tensor:
    """A dense tensor of real numbers, without gradient history."""
    try:
        tensor = torch.as_tensor(value).detach()
        plain = tensor.layout is torch.strided and tensor.device.type == "cpu"
        if not plain or tensor.is_complex() or tensor.is_quantized:
            raise TypeError("sparse, complex or quantized")
    except (TypeError, ValueError, RuntimeError, OverflowError) as error:
        found = f"its {what} are of type {type(value).__name__}"
        raise misfit(found, "one dense tensor or array of numbers", "convert them") from error
    return tensor


class _Number:
    """Stands in for a NumPy number, such as the accuracies that files of results hold with the images.

    Nobody reads these here, and with an inert class in the place of NumPy's functions the file can run none.
    """

    def __init__(self, *_: object) -> None: ...

    def __setstate__(self, _: object) -> None: ...


_NUMPY_NAMES = ("numpy.core.multiarray.scalar", "numpy._core.multiarray.scalar", "numpy.dtype")
_SUFFIXES = (".pt", ".pth", ".npz", ".npy", ".safetensors")


def _content(path: Path) -> Any:
    """What a file holds; whatever its reader raises becomes one line."""
    kind = path.suffix.lower()
    if not path.is_file():
        raise misfit(f"no file {path}", "a set's file or folder", "check the path")
    if kind not in _SUFFIXES:
        raise misfit(f"{path} is no set", f"a file that ends in {', '.join(_SUFFIXES)}", "save it as one")
    try:
        if kind in (".pt", ".pth"):
            numbers = [(_Number, name) for name in _NUMPY_NAMES]
            with warnings.catch_warnings(), torch.serialization.safe_globals(numbers):
                warnings.simplefilter("ignore")  # about pickle protocols that it then refuses
                return torch.load(path, map_location="cpu", weights_only=True)
        if kind == ".safetensors":
            return load_file(path)
        content = np.load(path, allow_pickle=False)
        return content if isinstance(content, np.ndarray) else dict(content)
    except pickle.UnpicklingError as error:  # its text advises to load without the restriction: never shown
        refused = re.search(r"GLOBAL ([\w.]+)", str(error))
        reason = f"it asks for {refused[1]}, which is not loaded" if refused else "it is no file of tensors"
        fix = "where you trust it, save its images and labels as tensors only"
        raise HgladError(f"cannot read {path}: {reason}; {fix}") from error
    except Exception as error:  # zipfile, zlib, NumPy, torch and safetensors raise all kinds
        reason = f"{type(error).__name__} {' '.join(str(error).split())}"[:120].strip()
        fix = "it is cut short or of another kind: get or save it again"
        raise HgladError(f"cannot read {path}: {reason}; {fix}") from error


def _file_hash(path: Path) -> str:
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _read_folder(path: Path, real: RealData) -> tuple[Tensor, Tensor, dict]:
    """Images, labels and card of a folder of images with one folder per class, in `train/` or directly."""
    if class_folders(path) == ("train",):  # as `hglad export` writes it
        path = path / "train"
    files = folder_files(path)
    by_name = set(files) <= set(real.classes)
    last = len(real.classes) - 1
    wrong = [name for name in files if not by_name and not (name.isdecimal() and int(name) <= last)]
    if wrong:
        worst = next((name for name in wrong if name not in real.classes), wrong[0])
        expected = f"class names such as {real.classes[0]!r} for all folders, or 0 to {last} for all"
        raise misfit(f"folder {worst!r} does not fit {real.name!r}", expected, "rename it")
    paths = [file for group in files.values() for file in group]
    pictures = decode_unresized(paths, 3)
    for picture, file in zip(pictures, paths, strict=True):
        if picture.shape[1:] != real.image_shape[1:]:
            raise _another_size(f"image {file} is", picture.shape, real)
    images = torch.from_numpy(np.stack(pictures))
    if real.image_shape[0] == 1 and (images == images[:, :1]).all():
        images = images[:, :1]  # gray pictures are often written with three equal channels
    classes = torch.tensor([real.classes.index(name) if by_name else int(name) for name in files])
    labels = classes.repeat_interleave(torch.tensor([len(group) for group in files.values()]))
    layout = f"folders by class {'name' if by_name else 'index'}"
    key = content_key(files, real.image_shape[-1], 3)
    card = {"kind": "foreign", "file": path.resolve().name, "sha256": key, "layout": layout}
    soft = _soft_labels(path / "metadata.csv", paths, last + 1)
    if soft is not None:
        labels = soft
        card |= {"labels": {"file": "metadata.csv", "sha256": _file_hash(path / "metadata.csv")}}
    return images, labels, card


def probability_columns(classes: int) -> list[str]:
    """Columns of soft labels in the `metadata.csv` of an image folder: of classes by their number."""
    return [f"probability_{index}" for index in range(classes)]


def _soft_labels(listing: Path, paths: Sequence[Path], classes: int) -> Tensor | None:
    """Soft labels float32 (n, classes) of files that a listing names; None where it has no such columns."""
    try:
        table = pd.read_csv(listing, index_col="file_name")
    except (FileNotFoundError, ValueError):  # none, or another table: the folders say the class
        return None
    if not set(probability_columns(classes)) <= set(table):
        return None
    names = [path.relative_to(listing.parent).as_posix() for path in paths]
    missing = [name for name in names if name not in table.index]
    if missing:
        raise HgladError(f"{listing} has no labels of {missing[0]}: add them or remove the image")
    return torch.from_numpy(table.loc[names, probability_columns(classes)].to_numpy(np.float32))


# Whether a set fits the data


def fit_shape(images: Tensor, real: RealData) -> Tensor:
    """Images (n, ch, h, w) of the data set's shape; given so, as (n, h, w, ch), or gray as (n, h, w)."""
    channels, height, width = real.image_shape
    if images.ndim == 3 and channels == 1:
        images = images[:, None]
    shape = list(images.shape)
    if images.ndim != 4:
        raise misfit(f"images have shape {shape}", "(n, channels, height, width)", "reshape them")
    if not len(images):
        raise misfit(f"images have shape {shape}, an empty set", "1 image or more", "save it again")
    channels_last = shape[1:] == [height, width, channels] or (shape[3] in (1, 3) and shape[1] not in (1, 3))
    if channels_last and images.shape[1:] != real.image_shape:
        images = images.movedim(3, 1)
    found = images.shape[1]
    if found != channels:
        fix = {1: "repeat it", 3: "convert them to gray"}.get(found, "reorder the axes")
        raise misfit(f"images {shape} have {found} channels", f"{channels} as in {real.name!r}", fix)
    if images.shape[1:] != real.image_shape:
        raise _another_size("images are", images.shape, real)
    return images


def _another_size(what: str, shape: Sequence[int], real: RealData) -> HgladError:
    expected = "{} x {} as in {!r}".format(*real.image_shape[1:], real.name)
    found = f"{what} {shape[-2]} x {shape[-1]} pixels (height x width)"
    return misfit(found, expected, "load the data in that resolution or resize the images")


def _statistics(normalized: bool | Statistics, real: RealData) -> tuple[Tensor, Tensor] | None:
    """Mean and standard deviation that the images were normalized with, float32 (ch,) each."""
    if isinstance(normalized, bool):
        return (real.mean.cpu(), real.std.cpu()) if normalized else None
    mean, std = (torch.tensor(list(values), dtype=torch.float32) for values in normalized)
    if not len(mean) == len(std) == real.image_shape[0] or not (std > 0).all():
        found = f"images are normalized by mean {mean.tolist()} and std {std.tolist()}"
        expected = f"{real.image_shape[0]} numbers each, std above 0"
        raise misfit(found, expected, "give as many as there are channels")
    return mean, std


def fit_range(images: Tensor, normalized: tuple[Tensor, Tensor] | None, any_range: bool) -> Tensor:
    """float32 images (n, ch, h, w) in about [0, 1]; a normalization by (mean, std) is undone."""
    if images.dtype != torch.uint8 and not images.is_floating_point():
        raise misfit(f"images are {images.dtype}", "uint8 (0 to 255) or float (0 to 1)", "convert them")
    floats = images.float() / 255 if images.dtype == torch.uint8 else images.float()
    bad = ~floats.isfinite()
    if bad.any():
        found = f"images have {int(bad.sum())} values that are NaN or infinite"
        where = f"the first at {bad.nonzero()[0].tolist()} (image, channel, row, column)"
        raise misfit(f"{found}, {where}", "numbers", "distill again or drop these images")
    what = "images"
    if normalized is not None:
        if floats.min() >= 0:
            expected, fix = "some below 0 in normalized images", "leave --normalized, --mean and --std"
            raise misfit(f"images reach from {_reach(floats)}", expected, f"{fix} (normalized=) out")
        mean, std = (values.view(-1, 1, 1) for values in normalized)
        floats = floats * std + mean
        what = "after the normalization is undone, images"
    spill = (floats - floats.clamp(0, 1)).abs().mean()
    if spill > LARGEST_SPILL and not any_range:
        if normalized is not None:
            fix = "give --mean and --std (normalized=) as used; whitening (ZCA) stays"
        elif floats.mean() > 2:
            fix = "divide them by 255"
        elif floats.min() >= -1.05 and floats.max() <= 1.05:
            fix = "add 1 and halve them"
        elif floats.min() < 0:
            fix = "give --normalized (normalized=True) if they are normalized to zero mean"
        else:
            fix = "scale them"
        fix = f"{fix}, or --any-range (any_range=True) if meant"
        raise misfit(f"{what} reach from {_reach(floats)}", "about 0 to 1", fix)
    return floats.contiguous()


def _reach(images: Tensor) -> str:
    return f"{images.min():.4g} to {images.max():.4g} with mean {images.mean():.4g}"


def fit_labels(labels: Tensor, images: int, real: RealData) -> Tensor:
    """Classes int64 (n,), or probabilities float32 (n, classes) that are not all 0 and 1."""
    count = len(real.classes)
    if labels.shape == (images,):
        values = labels.double()  # NaN and fractions are wrong classes as well
        wrong = ~((values >= 0) & (values < count) & (values == values.floor()))
        if wrong.any():
            first = int(wrong.nonzero()[0])
            fix = "subtract 1" if (values.min(), values.max()) == (1, count) else "check the data set"
            expected = f"0 to {count - 1}, the classes of {real.name!r}"
            raise misfit(f"label {values[first].item():g} of image {first}", expected, fix)
        return labels.long()
    if labels.shape != (images, count):
        expected = f"[{images}], or [{images}, {count}] for the probabilities of the {count} classes"
        found = f"labels have shape {list(labels.shape)} for {images} images"
        raise misfit(found, f"{expected} of {real.name!r}", "check the labels")
    values = labels.float()
    wrong = ~((values >= 0).all(dim=1) & ((values.sum(dim=1) - 1).abs() <= 1e-3))
    if wrong.any():
        row = int(wrong.nonzero()[0])
        low, total = values[row].min().item(), values[row].sum().item()
        found = f"soft labels of image {row} have least {low:.4g} and sum {total:.4g}"
        raise misfit(found, "probabilities, none below 0 and sum 1", "apply softmax to logits")
    return values.argmax(dim=1) if ((values == 0) | (values == 1)).all() else values
