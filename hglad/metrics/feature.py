"""Feature distance without class weighting: what the class weighting is compared with."""

import torch
from torch import Tensor

from hglad.data import RealData
from hglad.metrics.registry import register_metric
from hglad.networks.registry import Classifier

VERSION = 1  # raise when the same images give another distance
BATCH = 512


@register_metric("feature")
class FeatureDistance:
    """Squared distance of the mean feature vectors (n, K) of each class, summed over classes."""

    def __init__(self, classifier: Classifier, real: RealData):
        self.classifier, self.real = classifier.eval(), real
        means = []
        for label in range(len(real.classes)):
            images = real.images[real.offsets[label] : real.offsets[label + 1]].float() / 255
            means.append(self.vectors(images, torch.full((len(images),), label)).mean(dim=0))
        self.real_means = torch.stack(means)  # (class, K)

    @torch.no_grad()
    def vectors(self, images: Tensor, labels: Tensor) -> Tensor:
        """Vectors (n, K) of images in [0, 1]."""
        parts = zip(images.split(BATCH), labels.to(images.device).split(BATCH), strict=True)
        return torch.cat(
            [self.reduce(self.classifier.feature_maps(self.real.normalize(x)), y) for x, y in parts]
        )

    def reduce(self, maps: Tensor, labels: Tensor) -> Tensor:
        """Vectors (n, K) of feature maps (n, K, h, w): their spatial mean."""
        return maps.mean(dim=(2, 3))

    def __call__(self, images: Tensor, labels: Tensor) -> float:
        """Distance of images (n, channels, height, width) in [0, 1]."""
        vectors = self.vectors(images, labels)
        distances = [
            (vectors[labels == label].mean(dim=0) - real).square().sum()
            for label, real in enumerate(self.real_means)
        ]
        return torch.stack(distances).sum().item()
