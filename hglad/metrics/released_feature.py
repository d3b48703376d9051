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
from hglad.metrics import Metric, parts_of, real_side, register_metric, seeded, untrained
from hglad.networks import Classifier, require

VERSION = 1  # raise when the same images give another distance


@register_metric("released_feature")
class ReleasedFeatureDistance(Metric):
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
        self.real, self.layer, rng = real, layer, seeded(seed)

        def maps_of_real(network: Classifier) -> Tensor:
            options = type(self), layer
            return real_side(real, network, options, lambda images, _: self.mean_maps(network, images))

        drawn = (untrained(classifier, rng) for _ in range(networks))
        self.real_maps = sum(maps_of_real(network) / networks for network in drawn)  # (class, K, h, w)
        self.network = untrained(classifier, rng)

    @torch.no_grad()
    def mean_maps(self, network: Classifier, images: Tensor) -> Tensor:
        """Mean feature maps (K, h, w) of images (n, ch, h, w) in [0, 1]."""
        maps = (
            network.feature_maps(self.real.normalize(part), self.layer).sum(dim=0)
            for part in parts_of(images, network)
        )
        return sum(maps) / len(images)

    def __call__(self, images: Tensor, labels: Tensor) -> float:
        """As `Metric.__call__`."""
        ours = (self.mean_maps(self.network, images[labels == c]) for c in range(len(self.real_maps)))
        distances = [(x - real).square().sum() for x, real in zip(ours, self.real_maps, strict=True)]
        return torch.stack(distances).sum().item()
