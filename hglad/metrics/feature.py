"""Feature distance without class weighting: what the class weighting is compared with."""

import torch
from torch import Tensor

from hglad.data.datasets import RealData
from hglad.metrics import Metric, parts_of, real_side, register_metric
from hglad.networks import Classifier

VERSION = 1  # raise when the same images give another distance


@register_metric("feature")
class FeatureDistance(Metric):
    """Squared distance of the mean feature vectors (n, K) of each class, summed over classes.

    Args:
        real: real training images.
        classifier: network trained on them; it is put in eval mode.
        layer: block whose feature maps are taken, as in `Classifier.feature_maps`; -1: the last.

    Raises:
        HgladError: no such block.
    """

    def __init__(self, real: RealData, classifier: Classifier, layer: int = -1) -> None:
        self.layer = layer
        options = type(self), vars(self).copy()  # those that a subclass has set are among them
        self.real, self.classifier = real, classifier.eval()
        self.real_means = real_side(real, self.classifier, options, self.mean_vector)  # (class, K)

    def mean_vector(self, images: Tensor, label: int) -> Tensor:
        """Mean vector (K,) of images of one class."""
        return self.vectors(images, torch.full((len(images),), label)).mean(dim=0)

    @torch.no_grad()
    def vectors(self, images: Tensor, labels: Tensor) -> Tensor:
        """Vectors (n, K) of images in [0, 1]."""
        parts = parts_of(images, self.classifier)
        targets = labels.to(images.device).split([len(part) for part in parts])
        maps = (self.classifier.feature_maps(self.real.normalize(part), self.layer) for part in parts)
        return torch.cat([self.reduce(x, y) for x, y in zip(maps, targets, strict=True)])

    def reduce(self, maps: Tensor, labels: Tensor) -> Tensor:
        """Vectors (n, K) of feature maps (n, K, h, w): their spatial mean."""
        return maps.mean(dim=(2, 3))

    def __call__(self, images: Tensor, labels: Tensor) -> float:
        """As `Metric.__call__`."""
        return self.by_class(images, labels).sum().item()

    def by_class(self, images: Tensor, labels: Tensor) -> Tensor:
        """What each class adds to the distance, (class,)."""
        vectors = self.vectors(images, labels)
        distances = [
            (vectors[labels == label].mean(dim=0) - real).square().sum()
            for label, real in enumerate(self.real_means)
        ]
        return torch.stack(distances)
