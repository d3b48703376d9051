"""A distilled set: images, labels and a card, kept as a folder."""

from dataclasses import dataclass
from pathlib import Path
from typing import Self

import torch
from torch import Tensor
from torchvision.utils import make_grid, save_image

from hglad.errors import HgladError
from hglad.storage import publish, read_json, read_tensors, write_json, write_tensors


@dataclass(frozen=True)
class DistilledSet:
    """Images with labels, made to train networks.

    Attributes:
        images: float32 (n, channels, height, width), [0, 1] where the prior keeps to it, not clamped.
        labels: int64 (n,), sorted.
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

    @property
    def ipc(self) -> int:
        """Images per class."""
        return len(self.labels) // (int(self.labels.max()) + 1)

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
            save_grid(self.images, self.ipc, draft / "grid.png")

    @classmethod
    def load(cls, folder: Path | str) -> Self:
        """Read a folder that `save` wrote.

        Raises:
            HgladError: missing or damaged file, or a file of something else.
        """
        file = Path(folder) / "distilled.safetensors"
        tensors = read_tensors(file)
        if not {"images", "labels"} <= tensors.keys():
            raise HgladError(f"{file} has {', '.join(sorted(tensors)[:5])}: expected images and labels")
        card = read_json(Path(folder) / "card.json")
        return cls(tensors["images"], tensors["labels"], card, tensors.get("iterates"))


def _check_free(folder: Path) -> None:
    """Only the folder of a distilled set may be replaced: a mistyped path must not delete other files."""
    if folder.is_dir() and any(folder.iterdir()) and not (folder / "distilled.safetensors").is_file():
        raise HgladError(f"{folder} holds other files: give a new folder or that of a distilled set")


def to_uint8(images: Tensor) -> Tensor:
    """Images in [0, 1] as uint8, clamped and rounded."""
    return (images.clamp(0, 1) * 255).round().to(torch.uint8)


def save_grid(images: Tensor, per_class: int, path: Path | str) -> None:
    """Write images, sorted by class, as a PNG with one column per class."""
    columns = (
        images.unflatten(0, (-1, per_class)).transpose(0, 1).flatten(0, 1)
    )  # first image of each class first
    with publish(path) as draft:
        grid = make_grid(columns.clamp(0, 1), nrow=len(images) // per_class, padding=1, pad_value=0.5)
        save_image(grid, draft, format="png")
