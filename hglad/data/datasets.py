"""Real images: one split as a uint8 tensor sorted by class, and the registry of data sets.

A new data set is one function under `@DATA_SETS.register(name)` that takes a `Request` and returns a
`DataSet` on the CPU; `load_data` and `available`, which shows its docstring, then know it.

What `hglad data check --record` writes of a data set into `data/records/` suffices to name and show its
results where the images are not. Its images then have the right shape and no content (PyTorch's `meta`
device): whatever would look at a pixel fails, and nothing is computed from images that are not there.
"""

import hashlib
import math
import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from itertools import accumulate, pairwise
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from hglad.data.image_files import (
    FilesByClass,
    annotated_files,
    class_folders,
    fit,
    folder_files,
    load_images,
    readable_names,
)
from hglad.errors import HgladError
from hglad.paths import PROJECT, cache_folder
from hglad.registry import Registry
from hglad.settings import DataSettings, suggestion
from hglad.storage import read_json, write_json

RECORDS = PROJECT / "data" / "records"

IMAGENET_SUBSETS = {  # ImageNet-1k class indices, in the order of the papers (GLaD, MTT)
    "imagenet-a": (255, 376, 984, 364, 500, 986, 333, 576, 148, 135),
    "imagenet-b": (129, 916, 90, 275, 995, 874, 102, 259, 685, 139),
    "imagenet-c": (565, 94, 554, 535, 92, 392, 291, 136, 324, 11),
    "imagenet-d": (9, 258, 13, 262, 19, 339, 321, 24, 93, 322),
    "imagenet-e": (816, 96, 100, 145, 739, 713, 783, 76, 688, 326),
    "imagenet-food": (933, 934, 932, 963, 930, 928, 924, 959, 931, 927),
    "imagenet-geo": (980, 970, 975, 974, 973, 977, 976, 978, 972, 979),
    "imagenet-mammals": (386, 387, 354, 340, 338, 104, 103, 279, 334, 366),
    "imagenet-marine": (148, 2, 397, 327, 33, 150, 107, 108, 119, 392),
    "imagenette": (0, 217, 482, 491, 497, 566, 569, 571, 574, 701),
    "imagewoof": (193, 182, 258, 162, 155, 167, 159, 273, 207, 229),
    "imagefruit": (953, 954, 949, 950, 951, 957, 952, 945, 943, 948),
    "imageyellow": (309, 986, 954, 951, 987, 779, 599, 291, 72, 11),
    "imagemeow": (281, 282, 283, 284, 285, 291, 292, 290, 289, 287),
    "imagesquawk": (84, 130, 88, 144, 145, 22, 96, 9, 100, 89),
}
OTHER_NAMES = {"imagenet-cats": "imagemeow", "imagenet-birds": "imagesquawk", "imagenet-fruits": "imagefruit"}


@dataclass(frozen=True, eq=False)
class RealData:
    """One split of a data set; a class without images or tensors of another form raise `HgladError`."""

    name: str
    """Name of the data set."""
    images: Tensor
    """uint8 (n, ch, h, w), sorted by class."""
    offsets: tuple[int, ...]
    """Class c is `images[offsets[c]:offsets[c + 1]]`; (classes + 1) numbers."""
    classes: tuple[str, ...]
    """Class names."""
    mean: Tensor
    """float32 (ch,), mean per channel of the *training* images in [0, 1]."""
    std: Tensor
    """float32 (ch,), standard deviation per channel of the training images in [0, 1]."""
    content_hash: str
    """Hex sha256 that no processor changes: of the pixels, or of the files and how they are decoded."""

    def __post_init__(self) -> None:
        if self.images.dtype != torch.uint8 or self.images.dim() != 4:
            form = f"{self.images.dtype} {tuple(self.images.shape)}"
            raise HgladError(f"{self.name!r}: images are {form}, expected uint8 (n, ch, h, w); convert them")
        expected = len(self.classes) + 1, 0, len(self.images)
        if (len(self.offsets), self.offsets[0], self.offsets[-1]) != expected:
            bounds = "{} numbers from {} to {}".format(*expected)
            raise HgladError(f"{self.name!r}: offsets are {self.offsets}, expected {bounds}; sort by class")
        for name, count in zip(self.classes, self.counts, strict=True):
            if count < 1:
                raise HgladError(f"class {name!r} of {self.name!r} has no image, expected 1 or more; add it")

    @property
    def counts(self) -> tuple[int, ...]:
        """Images per class."""
        return tuple(end - start for start, end in pairwise(self.offsets))

    @property
    def image_shape(self) -> tuple[int, int, int]:
        """(ch, h, w)."""
        return tuple(self.images.shape[1:])

    @property
    def labels(self) -> Tensor:
        """Class of every image, int64 (n,), on the device of the images."""
        labels = torch.arange(len(self.classes)).repeat_interleave(torch.tensor(self.counts))
        return labels.to(self.images.device)

    def normalize(self, images: Tensor) -> Tensor:
        """Float images (..., ch, h, w) in [0, 1] to zero mean and unit variance, a network's input.

        Raises `HgladError` when the channels differ, which broadcasting would hide.
        """
        if images.shape[-3] != len(self.mean):
            found, wanted = images.shape[-3], len(self.mean)
            raise HgladError(f"wrong channel count: {found}, expected {wanted} as in {self.name!r}; convert")
        return (images - self.mean.view(-1, 1, 1)) / self.std.view(-1, 1, 1)

    def batch(self, per_class: int, rng: torch.Generator) -> Tensor:
        """Random images of every class, float (classes, per_class, ch, h, w) in [0, 1].

        Without replacement inside a class; a class smaller than `per_class` comes in whole permutations.
        Nothing waits for the device. Raises `HgladError` when `per_class` is not positive.
        """
        if per_class < 1:
            raise HgladError(f"per_class is {per_class}, expected 1 or more; raise the batch size")
        chosen = draw(self.offsets, per_class, rng).to(self.images.device, non_blocking=True)
        images = self.images.index_select(0, chosen.flatten())  # much faster than images[chosen] on a CPU
        return images.float().div_(255).unflatten(0, chosen.shape)

    def select(self, indices: Tensor | Sequence[int]) -> "RealData":
        """The images at `indices` sorted by class, inside a class in the order given; statistics kept.

        An index out of range or a class that would be left empty raises `HgladError`.
        """
        indices = torch.as_tensor(indices).cpu()
        indices = indices.nonzero().flatten() if indices.dtype == torch.bool else indices.long()
        outside = indices[(indices < 0) | (indices >= len(self.images))]
        if len(outside):
            last = len(self.images) - 1
            raise HgladError(f"index {int(outside[0])} is outside {self.name!r}, expected 0 to {last}")
        labels = self.labels.cpu()[indices]
        indices = indices[labels.argsort(stable=True)]
        return replace(
            self,
            images=self.images[indices.to(self.images.device)],
            offsets=_offsets(labels, len(self.classes)),
            content_hash=_hash(self.content_hash.encode(), indices.numpy()),
        )

    def split(self, fraction: float, seed: int) -> tuple["RealData", "RealData"]:
        """(kept, held out), with about `fraction` of every class held out, at least one image on each side.

        Raises `HgladError` for a fraction outside (0, 1) and a class with a single image.
        """
        if not 0 < fraction < 1:
            raise HgladError(f"fraction is {fraction}, expected a number between 0 and 1")
        rng = torch.Generator().manual_seed(seed)
        held = torch.zeros(len(self.images), dtype=torch.bool)
        for name, start, count in zip(self.classes, self.offsets, self.counts, strict=False):
            if count < 2:
                raise HgladError(f"class {name!r} of {self.name!r} has one image, a split needs 2; add some")
            size = min(max(round(fraction * count), 1), count - 1)
            held[start + torch.randperm(count, generator=rng)[:size]] = True
        return self.select(~held), self.select(held)

    def to(self, device: torch.device | str) -> "RealData":
        """The same split on another device."""
        moved = {name: getattr(self, name).to(device) for name in ("images", "mean", "std")}
        return replace(self, **moved)


@dataclass(frozen=True)
class DataSet:
    """The two splits of a data set; both carry the statistics of the training images."""

    name: str
    train: RealData
    test: RealData

    @property
    def splits(self) -> dict[str, RealData]:
        return {"train": self.train, "test": self.test}


@dataclass(frozen=True)
class Request:
    """What `load_data` was asked for; None leaves the choice to the data set."""

    name: str
    root: Path | None = None
    resolution: int | None = None
    channels: int | None = None
    download: bool = False


DATA_SETS = Registry("data set")


def available() -> list[tuple[str, str]]:
    """(name, description) of every registered data set."""
    return [(name, loader.__doc__) for name, loader in DATA_SETS.factories.items()]


def load_data(
    name: str | Path,
    root: Path | str | None = None,
    resolution: int | None = None,
    channels: int | None = None,
    device: torch.device | str = "cpu",
    download: bool = False,
) -> DataSet:
    """Load a data set by its name, or an image folder by its path, onto `device`.

    `root` is where the files lie, `resolution` in pixels, `channels` 1 or 3; `download` lets torchvision
    fetch what it can. Everything that is missing, broken or unknown raises `HgladError`.
    """
    if resolution is not None and resolution < 1:
        raise HgladError(f"resolution is {resolution}, expected 1 pixel or more")
    if channels not in (None, 1, 3):
        raise HgladError(f"wrong channel count: {channels}, expected 1 (gray) or 3 (RGB)")
    name, root = str(name), None if root is None else Path(root)
    request = Request(OTHER_NAMES.get(name, name), root, resolution, channels, download)
    if request.name not in DATA_SETS.names():
        if not Path(name).is_dir():
            nearest = suggestion(name, [*DATA_SETS.names(), *OTHER_NAMES])
            raise HgladError(f"no data set {name!r} and no folder of that path: {nearest}")
        request = replace(request, name="folder", root=Path(name))
    dataset = DATA_SETS.create(request.name, request)
    return DataSet(dataset.name, dataset.train.to(device), dataset.test.to(device))


def describe(dataset: DataSet) -> dict:
    """Name, shape, statistics, and per split the images per class and the content hash; fit for JSON."""
    splits = dataset.splits.items()
    return {
        "name": dataset.name,
        "image_shape": list(dataset.train.image_shape),
        "classes": len(dataset.train.classes),
        "mean": [round(value, 4) for value in dataset.train.mean.tolist()],
        "std": [round(value, 4) for value in dataset.train.std.tolist()],
        "images": {split: len(data.images) for split, data in splits},
        "counts": {split: dict(zip(data.classes, data.counts, strict=True)) for split, data in splits},
        "content_hash": {split: data.content_hash for split, data in splits},
    }


def record_file(data: DataSettings, folder: Path = RECORDS) -> Path:
    """Where the record of a data set lies; an image folder is known by its own name."""
    place = data.root if data.name == "folder" and data.root else data.name
    return folder / f"{Path(place).name}-{data.resolution or 'own'}.json"


def write_record(dataset: DataSet, file: Path) -> None:
    """Write what is to be known of a data set."""
    train = dataset.train
    content = {"name": dataset.name, "image_shape": train.image_shape, "classes": train.classes}
    content |= {"mean": train.mean.tolist(), "std": train.std.tolist()}
    for split, real in dataset.splits.items():
        content[split] = {"counts": real.counts, "content_hash": real.content_hash}
    write_json(file, content)


def read_record(data: DataSettings, folder: Path = RECORDS) -> DataSet | None:
    """The data set as its record has it, without pixels; none where there is no record, or with a holdout."""
    file = record_file(data, folder)
    if data.holdout or not file.is_file():
        return None
    content = read_json(file)
    statistics = torch.tensor(content["mean"]), torch.tensor(content["std"])
    name, classes, splits = content["name"], tuple(content["classes"]), []
    for split in (content["train"], content["test"]):
        offsets = (0, *accumulate(split["counts"]))
        images = torch.empty(offsets[-1], *content["image_shape"], dtype=torch.uint8, device="meta")
        splits.append(RealData(name, images, offsets, classes, *statistics, split["content_hash"]))
    return DataSet(name, *splits)


def images_are_there(data: DataSettings) -> bool:
    """Whether the folder of the images exists, if the data set needs one."""
    return data.root is None or Path(data.root).is_dir()


def draw(offsets: tuple[int, ...], per_class: int, rng: torch.Generator) -> Tensor:
    """Random indices int64 (classes, per_class) into images sorted by class, on the generator's device.

    Every class's first `count` draws are a permutation, so are its next `count`, and so on. One ranking
    of random keys serves all classes: no loop over classes and no number that the host waits for.
    """
    device = rng.device
    sizes = [end - start for start, end in pairwise(offsets)]
    starts, counts = _starts_and_counts(offsets, device)  # (classes, 1)
    rounds = math.ceil(per_class / min(sizes))
    keys = torch.rand(rounds, len(sizes), max(sizes), generator=rng, device=device)
    absent = torch.arange(max(sizes), device=device) >= counts  # (classes, max size)
    order = keys.masked_fill_(absent, torch.inf).topk(min(per_class, max(sizes)), largest=False).indices
    position = torch.arange(per_class, device=device)  # (per_class,)
    row = torch.arange(len(sizes), device=device)[:, None]  # (classes, 1)
    return starts + order[position // counts, row, position % counts]


@lru_cache(maxsize=64)
def _starts_and_counts(offsets: tuple[int, ...], device: torch.device) -> tuple[Tensor, Tensor]:
    bounds = torch.tensor(offsets, device=device)[:, None]
    return bounds[:-1], bounds.diff(dim=0)


def channel_statistics(images: Tensor) -> tuple[Tensor, Tensor]:
    """Mean and standard deviation per channel, float32 (ch,), of uint8 images (n, ch, h, w) scaled to [0, 1].

    Sums are of integers, so every processor gets the same bits. The standard deviation is at least one
    gray level: a constant channel is centered, not blown up.
    """
    counts = torch.stack([images[:, c].flatten().bincount(minlength=256) for c in range(images.shape[1])])
    level = torch.arange(256)
    pixels = images[:, 0].numel()
    mean = (counts * level).sum(1).double() / pixels  # (ch,) in 0 to 255
    variance = (counts * level.square()).sum(1).double() / pixels - mean.square()
    return (mean / 255).float(), (variance.clamp(min=1).sqrt() / 255).float()


def from_arrays(
    name: str,
    train: tuple[np.ndarray, np.ndarray],
    test: tuple[np.ndarray, np.ndarray],
    classes: Sequence[str],
) -> DataSet:
    """A data set out of (images uint8 (n, ch, h, w), labels (n,)) per split, in any order."""
    statistics = channel_statistics(torch.from_numpy(train[0]))
    splits = []
    for images, labels in (train, test):
        labels = torch.as_tensor(labels, dtype=torch.int64)
        order = labels.argsort(stable=True)
        images, labels = np.ascontiguousarray(images[order.numpy()]), labels[order]
        content = _hash(str(images.shape).encode(), images, labels.numpy())
        offsets = _offsets(labels, len(classes))
        splits.append(RealData(name, torch.from_numpy(images), offsets, tuple(classes), *statistics, content))
    return DataSet(name, *splits)


def _offsets(labels: Tensor, classes: int) -> tuple[int, ...]:
    return (0, *labels.bincount(minlength=classes).cumsum(0).tolist())


def _hash(*parts: bytes | np.ndarray) -> str:
    total = hashlib.sha256()
    for part in parts:
        total.update(part)
    return total.hexdigest()


def _resized(images: np.ndarray, resolution: int, resample: Image.Resampling) -> np.ndarray:
    """Resize uint8 images (n, h, w[, ch]) by PIL, whose integer arithmetic is the same on every processor."""
    return np.stack([np.asarray(fit(Image.fromarray(image), resolution, resample)) for image in images])


def _with_channels(images: np.ndarray, request: Request) -> np.ndarray:
    """uint8 (n, ch, h, w) with the channels asked for; gray becomes RGB, RGB does not become gray."""
    channels = request.channels or images.shape[1]
    if channels == 1 < images.shape[1]:
        raise HgladError(f"wrong channel count: {request.name!r} has color, expected 1; pass channels=3")
    return images if channels == images.shape[1] else images.repeat(channels, axis=1)


@DATA_SETS.register("digits")
def _digits(request: Request) -> DataSet:
    """scikit-learn's 1,797 handwritten digits, gray, 16 x 16; ships with the package"""
    from sklearn.datasets import load_digits
    from sklearn.model_selection import train_test_split

    source = load_digits()
    images = ((source.images.astype(np.int64) * 255 + 8) // 16).astype(np.uint8)  # 0..16 to 0..255, rounded
    images = _resized(images, request.resolution or 16, Image.Resampling.BILINEAR)[:, None]
    images = _with_channels(images, request)
    rows = np.arange(len(images))
    train, test = train_test_split(rows, test_size=0.2, stratify=source.target, random_state=0)
    train, test = ((images[chosen], source.target[chosen]) for chosen in (np.sort(train), np.sort(test)))
    return from_arrays(request.name, train, test, [str(name) for name in source.target_names])


@DATA_SETS.register("cifar100")
@DATA_SETS.register("cifar10")
def _cifar(request: Request) -> DataSet:
    """CIFAR-10 or CIFAR-100 by torchvision, 32 x 32; root: its folder, or download"""
    from torchvision.datasets import CIFAR10, CIFAR100

    archive = {"cifar10": CIFAR10, "cifar100": CIFAR100}[request.name]
    splits = []
    for part in (_torchvision(archive, request, train=train) for train in (True, False)):
        images = part.data
        if request.resolution not in (None, images.shape[1]):
            images = _resized(images, request.resolution, Image.Resampling.BICUBIC)
        images = _with_channels(images.transpose(0, 3, 1, 2), request)
        splits.append((images, np.asarray(part.targets)))
    return from_arrays(request.name, *splits, part.classes)


def _torchvision(archive: Callable, request: Request, **options: object) -> object:
    root = request.root or cache_folder() / "downloads"
    try:
        return archive(root, download=request.download, **options)
    except (OSError, RuntimeError) as error:
        reason = " ".join(str(error).split())
        advice = "give --download (download=True) or the --root that holds it (root=; data.root in a profile)"
        raise HgladError(f"data set {request.name!r} is not usable in {root}: {reason}; {advice}") from error


@DATA_SETS.register("imagenette")
def _imagenette(request: Request) -> DataSet:
    """ten easy ImageNet classes; root: torchvision's or an ImageNet folder, or download"""
    from torchvision.datasets import Imagenette

    if request.root and (request.root / "train").is_dir():
        return _imagenet_subset(request)
    archive = _torchvision(Imagenette, request, split="train", size="320px")
    folder = Path(archive.root) / "imagenette2-320"
    splits = [folder_files(folder / split, archive.wnids) for split in ("train", "val")]
    return _from_files(request, *splits, [names[0] for names in archive.classes], resolution=128)


@DATA_SETS.register("tiny-imagenet")
def _tiny_imagenet(request: Request) -> DataSet:
    """Tiny-ImageNet, 200 classes, 64 x 64; root: tiny-imagenet-200 as it comes"""
    root = _root(request, "the folder tiny-imagenet-200 with train/ and val/")
    train = folder_files(root / "train")
    test = annotated_files(root / "val", sorted(train))
    return _from_files(request, train, test, readable_names(root, list(train)), resolution=64)


def _imagenet_subset(request: Request) -> DataSet:
    """ten ImageNet classes, 128 x 128; root: an ImageNet folder"""
    root = _root(request, "the ImageNet folder with train/<class id>/ and val/<class id>/")
    ids = class_folders(root / "train")
    if len(ids) != 1000:
        advice = "give the whole ImageNet-1k folder, since a class is found by its rank"
        raise HgladError(f"{root / 'train'} has {len(ids)} classes, expected 1000; {advice}")
    chosen = [ids[index] for index in IMAGENET_SUBSETS[request.name]]
    splits = [folder_files(root / split, chosen) for split in ("train", "val")]
    return _from_files(request, *splits, readable_names(root, chosen), resolution=128)


for _name in sorted(IMAGENET_SUBSETS.keys() - {"imagenette"}):
    DATA_SETS.register(_name)(_imagenet_subset)


@DATA_SETS.register("folder")
def _folder(request: Request) -> DataSet:
    """any folder `root/{train,test or val}/<class>/<image>`; give the resolution"""
    root = _root(request, "the folder with train/ and test/ or val/")
    if request.resolution is None:
        advice = "expected pixels; give --resolution (data.resolution in a profile)"
        raise HgladError(f"no resolution for the image folder {root}, {advice}")
    train = folder_files(root / "train")
    test = next((root / name for name in ("test", "val") if (root / name).is_dir()), None)
    if test is None:
        raise HgladError(f"no folder test/ or val/ in {root}; put test images there, one folder per class")
    named = replace(request, name=Path(os.path.abspath(root)).name)
    return _from_files(named, train, folder_files(test), readable_names(root, list(train)))


def _root(request: Request, expected: str) -> Path:
    if request.root is None:
        advice = f"{expected}; give --root (data.root in a profile)"
        raise HgladError(f"data set {request.name!r} needs a root, {advice}")
    return request.root


def _from_files(
    request: Request, train: FilesByClass, test: FilesByClass, classes: Sequence[str], resolution: int = 0
) -> DataSet:
    """A data set out of files by class; `resolution` holds where the request leaves it open."""
    for name in sorted(train.keys() ^ test.keys()):
        there, missing = ("training", "test") if name in train else ("test", "training")
        raise HgladError(f"class {name!r} of the {there} split is missing in the {missing} split; add images")
    size, channels = request.resolution or resolution, request.channels or 3
    loaded = [(files, *load_images(files, size, channels)) for files in (train, test)]
    statistics = channel_statistics(loaded[0][1])
    splits = []
    for files, images, key in loaded:
        offsets = (0, *accumulate(len(group) for group in files.values()))
        splits.append(RealData(request.name, images, offsets, tuple(classes), *statistics, key))
    return DataSet(request.name, *splits)
