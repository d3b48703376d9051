"""The distance of H-GLaD's released code, as far as the last feature maps go.

It compares mean feature maps, without weighting by class, and its two sides see different untrained
networks: the real maps are averaged over several, the candidates go through another one. Channel k of one
untrained network has nothing to do with channel k of another, so this distance does not vanish for the real
set itself, and a large part of it says how the networks differ. It is here to measure what that costs;
`random_feature` does the same with each network on both sides.
"""

import torch
from torch import Tensor

from hglad.data.datasets import RealData
from hglad.metrics.draws import seeded, untrained
from hglad.metrics.feature import class_images, parts_of
from hglad.metrics.real_side import real_side
from hglad.metrics.registry import register_metric
from hglad.networks import Classifier, require

VERSION = 1  # raise when the same images give another distance


@register_metric("released_feature")
class ReleasedFeatureDistance:
    """Squared distance of mean feature maps (K, h, w) of untrained networks that differ, summed over classes.

    Args:
        real: real training images.
        classifier: gives the architecture; its parameters are not used.
        networks: number of networks that the real maps are averaged over, the same as those of
            `random_feature`. Source: released code.
        seed: of their parameters and of those of the network that the candidates see.
        layer: block whose feature maps are taken, as in `Classifier.feature_maps`; -1: the last.

    Raises:
        HgladError: no such block, an impossible number of networks or seed.
    """

    def __init__(
        self, real: RealData, classifier: Classifier, networks: int = 5, seed: int = 0, layer: int = -1
    ) -> None:
        require("the metric 'released_feature'", networks=networks)
        self.real, self.layer, generator = real, layer, seeded(seed)
        self.real_maps = sum(
            self._class_maps(untrained(classifier, generator)) / networks for _ in range(networks)
        )  # (class, K, h, w)
        self.network = untrained(classifier, generator)

    def _class_maps(self, network: Classifier) -> Tensor:
        """Mean feature maps of every class of the real set, (class, K, h, w)."""

        def compute() -> Tensor:
            labels = range(len(self.real.classes))
            return torch.stack([self.mean_maps(network, class_images(self.real, c)) for c in labels])

        return real_side(self.real, network, (type(self), self.layer), compute)

    @torch.no_grad()
    def mean_maps(self, network: Classifier, images: Tensor) -> Tensor:
        """Mean feature maps (K, h, w) of images (n, ch, h, w) in [0, 1]."""
        maps = (
            network.feature_maps(self.real.normalize(part), self.layer).sum(dim=0)
            for part in parts_of(images, network)
        )
        return sum(maps) / len(images)

    def __call__(self, images: Tensor, labels: Tensor) -> float:
        """Distance of images (n, channels, height, width) in [0, 1]."""
        distances = [
            (self.mean_maps(self.network, images[labels == label]) - real).square().sum()
            for label, real in enumerate(self.real_maps)
        ]
        return torch.stack(distances).sum().item()
