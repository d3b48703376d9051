"""Feature distance without class weighting: what the class weighting is compared with."""

import torch
from torch import Tensor

from hglad.data.datasets import RealData
from hglad.metrics.real_side import real_side
from hglad.metrics.registry import register_metric
from hglad.networks import Classifier
from hglad.networks.chunks import forward_size

VERSION = 1  # raise when the same images give another distance
MOST = 512  # images at once


def parts_of(images: Tensor, classifier: Classifier) -> tuple[Tensor, ...]:
    """Images (n, ch, h, w) in parts that suit the processor or GPU."""
    return images.split(min(MOST, forward_size(classifier, images)))


def class_images(real: RealData, label: int) -> Tensor:
    """All real images of a class, float (n, ch, h, w) in [0, 1]."""
    return real.images[real.offsets[label] : real.offsets[label + 1]].float() / 255


@register_metric("feature")
class FeatureDistance:
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
        self.real_means = real_side(real, self.classifier, options, self.means_of_real)  # (class, K)

    def means_of_real(self) -> Tensor:
        """Mean vector of every class of the real set, (class, K)."""
        means = []
        for label in range(len(self.real.classes)):
            images = class_images(self.real, label)
            means.append(self.vectors(images, torch.full((len(images),), label)).mean(dim=0))
        return torch.stack(means)

    @torch.no_grad()
    def vectors(self, images: Tensor, labels: Tensor) -> Tensor:
        """Vectors (n, K) of images in [0, 1]."""
        parts = parts_of(images, self.classifier)
        targets = labels.to(images.device).split([len(part) for part in parts])
        return torch.cat([self.reduce(self.maps(x), y) for x, y in zip(parts, targets, strict=True)])

    def maps(self, images: Tensor) -> Tensor:
        """Feature maps (n, K, h, w) of images in [0, 1]."""
        return self.classifier.feature_maps(self.real.normalize(images), self.layer)

    def reduce(self, maps: Tensor, labels: Tensor) -> Tensor:
        """Vectors (n, K) of feature maps (n, K, h, w): their spatial mean."""
        return maps.mean(dim=(2, 3))

    def __call__(self, images: Tensor, labels: Tensor) -> float:
        """Distance of images (n, channels, height, width) in [0, 1]."""
        return self.by_class(images, labels).sum().item()

    def by_class(self, images: Tensor, labels: Tensor) -> Tensor:
        """What each class adds to the distance, (class,)."""
        vectors = self.vectors(images, labels)
        distances = [
            (vectors[labels == label].mean(dim=0) - real).square().sum()
            for label, real in enumerate(self.real_means)
        ]
        return torch.stack(distances)
