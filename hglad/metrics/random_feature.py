"""Feature distance under untrained networks: what the trained classifier is compared with."""

from statistics import fmean

from torch import Tensor

from hglad.data.datasets import RealData
from hglad.metrics import Metric, register_metric, seeded, untrained
from hglad.metrics.feature import FeatureDistance
from hglad.networks import Classifier, require

VERSION = 1  # raise when the same images give another distance


@register_metric("random_feature")
class RandomFeatureDistance(Metric):
    """Mean feature distance under several untrained networks, each of which sees both sides.

    Args:
        real: real training images.
        classifier: gives the architecture; its parameters are not used.
        networks: number of networks.
        seed: of their parameters.
        layer: block whose feature maps are taken, as in `Classifier.feature_maps`; -1: the last.

    Raises:
        HgladError: no such block, an impossible number of networks or seed.
    """

    def __init__(
        self, real: RealData, classifier: Classifier, networks: int = 5, seed: int = 0, layer: int = -1
    ) -> None:
        require("the metric 'random_feature'", networks=networks)
        rng = seeded(seed)
        self.distances = [FeatureDistance(real, untrained(classifier, rng), layer) for _ in range(networks)]

    def __call__(self, images: Tensor, labels: Tensor) -> float:
        """As `Metric.__call__`."""
        return fmean(distance(images, labels) for distance in self.distances)
