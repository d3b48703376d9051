"""Registry of the selection metrics."""

from typing import Protocol

from torch import Tensor

from hglad.registry import Registry


class Metric(Protocol):
    """Distance of images to the real set, whose statistics are computed once, at construction."""

    def __call__(self, images: Tensor, labels: Tensor) -> float:
        """Distance of images (n, channels, height, width) in [0, 1] with labels (n,); smaller is better."""


METRICS = Registry("metric", given=("classifier", "real"))
register_metric = METRICS.register


def create_metric(name: str, classifier, real, **options) -> Metric:
    """A metric by name over a classifier that was trained on `real`.

    Raises:
        HgladError: unknown name or option, with the nearest one.
    """
    return METRICS.create(name, classifier, real, **options)
