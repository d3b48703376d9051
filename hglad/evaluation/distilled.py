"""A distilled set: images, labels and a card, kept as a folder."""

import math
from dataclasses import dataclass
from pathlib import Path
from typing import Self

import torch
from torch import Tensor

from hglad.errors import HgladError
from hglad.storage import publish, read_json, read_tensors, write_json, write_tensors

IMAGES = ("distilled.safetensors", "grid.png")  # beside the card
LEFT_OUT = "images-left-out"  # in their place


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

    def __post_init__(self):
        if self.images.ndim != 4 or len(self.images) != len(self.labels):
            raise HgladError(
                f"distilled images have shape {list(self.images.shape)} for {len(self.labels)} labels: "
                "expected (n, channels, height, width) and n labels"
            )
        hard = self.labels.ndim == 1 and self.labels.dtype == torch.int64
        if not hard and not (self.labels.ndim == 2 and self.labels.is_floating_point()):
            raise HgladError(
                f"labels are {self.labels.dtype} {list(self.labels.shape)}: "
                "expected int64 (n,) or probabilities, float (n, classes); convert them"
            )

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
        counts = self.counts
        if len(set(counts)) != 1:
            few, most = min(counts, default=0), max(counts, default=0)
            raise HgladError(
                f"the set has {few} to {most} images per class: it has no single ipc; use its counts"
            )
        return counts[0]

    def save(self, folder: Path | str) -> None:
        """Write `distilled.safetensors`, `card.json` and `grid.png`, all or nothing.

        Raises:
            HgladError: the folder holds something other than a distilled set, or cannot be written.
        """
        _check_free(Path(folder))
        tensors = {"images": self.images, "images_uint8": to_uint8(self.images), "labels": self.labels}
        if self.iterates is not None:
            tensors["iterates"] = self.iterates
        with publish(folder) as draft:
            draft.mkdir()
            write_tensors(draft / "distilled.safetensors", tensors)
            write_json(draft / "card.json", self.card)
            by_class = self.images[self.hard_labels.argsort(stable=True)]
            per_class = self.ipc if len(set(self.counts)) == 1 else None
            save_grid(by_class, per_class, draft / "grid.png")

    @classmethod
    def load(cls, folder: Path | str) -> Self:
        """Read a folder that `save` wrote.

        Raises:
            HgladError: missing or damaged file, or a file of something else.
        """
        file = Path(folder) / "distilled.safetensors"
        if images_left_out(folder):
            mend = "delete the folder, and hglad run makes it again"
            raise HgladError(f"{folder} has a card and no images, as hglad results slim leaves it: {mend}")
        tensors = read_tensors(file)
        if not {"images", "labels"} <= tensors.keys():
            raise HgladError(f"{file} has {', '.join(sorted(tensors)[:5])}: expected images and labels")
        card = read_json(Path(folder) / "card.json")
        return cls(tensors["images"], tensors["labels"], card, tensors.get("iterates"))


def images_left_out(folder: Path | str) -> bool:
    """Whether `leave_images_out` has deleted the images of a set; those that got lost are no such case."""
    folder = Path(folder)
    return (folder / LEFT_OUT).is_file() and not (folder / "distilled.safetensors").exists()


def leave_images_out(folder: Path | str) -> None:
    """Delete the images of a set and their picture; the card stays as it is, and an empty file says so."""
    folder = Path(folder)
    (folder / LEFT_OUT).touch()
    for name in IMAGES:
        (folder / name).unlink(missing_ok=True)


def _check_free(folder: Path) -> None:
    """Only the folder of a distilled set may be replaced: a mistyped path must not delete other files."""
    own = any((folder / name).is_file() for name in ("distilled.safetensors", "card.json"))
    if folder.is_dir() and any(folder.iterdir()) and not own:
        raise HgladError(f"{folder} holds other files: give a new folder or that of a distilled set")


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
    with publish(path) as draft:
        grid = make_grid(images.clamp(0, 1), nrow=columns, padding=1, pad_value=0.5)
        save_image(grid, draft, format="png")
