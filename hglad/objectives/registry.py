"""Matching objectives by name, and what one is."""

from typing import Protocol

import torch
from torch import Tensor

from hglad.errors import HgladError
from hglad.registry import Registry


class RealBatches(Protocol):
    """What an objective needs of `hglad.data.datasets.RealData`."""

    classes: tuple[str, ...]

    def normalize(self, images: Tensor) -> Tensor: ...
    def batch(self, per_class: int, generator: torch.Generator) -> Tensor: ...


class Objective(Protocol):
    """A matching objective: how the images should change to train networks as the real set does."""

    name: str
    rates: tuple[str, ...]
    """Names of its own learning rates, which may be at fault when a value is not finite."""

    def gradient(
        self, images: Tensor, labels: Tensor, real: RealBatches, generator: torch.Generator
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """dL/dimages (n, ch, h, w) and scalars to log, tensors of shape ().

        `images` (n, ch, h, w) are float in [0, 1], not necessarily clamped; `labels` (n,) are sorted, with
        the same number of images per class. Everything random follows from `generator`. Whether the result is
        finite is for the caller to see (`FiniteCheck`): looking at each step would keep a GPU waiting.
        """
        ...

    def state_dict(self) -> dict[str, Tensor]:
        """What the next step depends on beside its arguments, such as a network in training."""
        ...

    def load_state_dict(self, state: dict[str, Tensor]) -> None:
        """Go on from a `state_dict`."""
        ...


SHARED = ("network", "augmentation", "batch_real", "experts")
"""Options that a profile sets for all objectives; each takes those that it names."""

OBJECTIVES = Registry("objective", __package__)
register_objective = OBJECTIVES.register


def create_objective(name: str, **settings: object) -> Objective:
    """An objective by name; an unknown name or setting raises `HgladError` with the nearest one."""
    return OBJECTIVES.create(name, **settings)


class SortedLabels:
    """Checks labels once: a look at each step would keep a GPU waiting."""

    def __init__(self) -> None:
        self.seen: Tensor | None = None

    def images_per_class(self, images: Tensor, labels: Tensor, classes: int) -> int:
        """Images per class (ipc); raises `HgladError` unless the labels are those of the classes in order."""
        ipc = len(labels) // classes
        if labels is self.seen and len(images) == len(labels):
            return ipc
        expected = torch.arange(classes, device=labels.device).repeat_interleave(max(1, ipc))
        if len(images) != len(labels) or not torch.equal(labels, expected):
            raise HgladError(
                f"{len(images)} images have the labels {_shortened(labels.tolist())}; give images "
                f"sorted by class, equally many of each of the {classes} classes"
            )
        self.seen = labels
        return ipc


def _shortened(labels: list[int]) -> str:
    return ", ".join(map(str, labels[:20])) + (", ..." if len(labels) > 20 else "")
