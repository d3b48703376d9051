"""Matching objectives by name, and what one is."""

from typing import Protocol

import torch
from torch import Tensor

from hglad.errors import HgladError
from hglad.registry import Registry


class RealBatches(Protocol):
    """What an objective needs of `hglad.data.RealData`."""

    classes: tuple[str, ...]

    def normalize(self, images: Tensor) -> Tensor: ...
    def batch(self, per_class: int, generator: torch.Generator) -> Tensor: ...


class Objective(Protocol):
    """A matching objective: how the images should change to train networks as the real set does."""

    def gradient(
        self, images: Tensor, labels: Tensor, real: RealBatches, generator: torch.Generator
    ) -> tuple[Tensor, dict[str, float]]:
        """dL/dimages (n, ch, h, w) and scalars to log.

        `images` (n, ch, h, w) are float in [0, 1], not necessarily clamped; `labels` (n,) are sorted, with
        the same number of images per class. Everything random follows from `generator`.
        """
        ...


OBJECTIVES = Registry("objective")
register_objective = OBJECTIVES.register


def create_objective(name: str, **settings: object) -> Objective:
    """An objective by name; an unknown name or setting raises `HgladError` with the nearest one."""
    return OBJECTIVES.create(name, **settings)


def images_per_class(images: Tensor, labels: Tensor, classes: int) -> int:
    """Images per class (ipc); raises `HgladError` unless the labels are those of the classes in order."""
    ipc = len(labels) // classes
    expected = torch.arange(classes, device=labels.device).repeat_interleave(max(1, ipc))
    if len(images) != len(labels) or not torch.equal(labels, expected):
        raise HgladError(
            f"{len(images)} images have the labels {_shortened(labels.tolist())}; give images "
            f"sorted by class, equally many of each of the {classes} classes"
        )
    return ipc


def _shortened(labels: list[int]) -> str:
    return ", ".join(map(str, labels[:20])) + (", ..." if len(labels) > 20 else "")


def check_finite(objective: str, loss: Tensor, gradient: Tensor) -> None:
    """Raise `HgladError` when the loss or the image gradient is not finite."""
    if not (loss + gradient.abs().sum()).isfinite():
        wrong = f"loss is {loss.item()}"
        if loss.isfinite():
            wrong = f"gradient has {int((~gradient.isfinite()).sum())} values that are not finite"
        raise HgladError(
            f"objective {objective!r}: the {wrong}; lower the rates of the search or look for "
            "images that are not finite"
        )
