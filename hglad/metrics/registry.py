"""Registry of the selection metrics."""

import inspect
from typing import Protocol

from torch import Tensor

from hglad.data.datasets import RealData
from hglad.errors import HgladError
from hglad.networks import Classifier
from hglad.objectives import Objective
from hglad.registry import Registry


class Metric(Protocol):
    """Distance of images to the real set; what it needs of that is computed once, at construction."""

    def __call__(self, images: Tensor, labels: Tensor) -> float:
        """Distance of images (n, channels, height, width) in [0, 1] with labels (n,); smaller is better."""


GIVEN = {
    "real": "the real training images",
    "classifier": "a network trained on the real set",
    "objective": "the matching objective of the search",
    "held_out": "real images that the search never sees",
}
"""What a metric can be given. Its constructor names what it needs of these first, then its options."""

METRICS = Registry("metric", __package__, given=tuple(GIVEN))
register_metric = METRICS.register


def needs(name: str) -> set[str]:
    """Which of `GIVEN` a metric asks for; an unknown name raises `HgladError` with the nearest one."""
    return set(_needed(name))


def create_metric(
    name: str,
    real: RealData,
    *,
    classifier: Classifier | None = None,
    objective: Objective | None = None,
    held_out: RealData | None = None,
    **options: object,
) -> Metric:
    """A metric by name, made of those of the given things that it needs (`needs`).

    Args:
        name: registered name.
        real: real training images, the ones that the search sees.
        classifier: network trained on `real`; some metrics use its architecture only.
        objective: matching objective of the search; a metric leaves it as it is.
        held_out: real images beside `real`. Never the test images: a metric selects.
        options: options of the metric.

    Raises:
        HgladError: unknown name or option, with the nearest one; something needed is missing; an option that
            is impossible.
    """
    given = {"real": real, "classifier": classifier, "objective": objective, "held_out": held_out}
    needed = _needed(name)
    for key in needed:
        if given[key] is None:
            raise HgladError(f"the metric {name!r} needs {GIVEN[key]}, got none; pass it as {key}=...")
    return METRICS.create(name, *(given[key] for key in needed), **options)


def _needed(name: str) -> list[str]:
    """In the order of the constructor."""
    METRICS.options(name)  # refuses an unknown name
    return [key for key in inspect.signature(METRICS.factories[name]).parameters if key in GIVEN]
