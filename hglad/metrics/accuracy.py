"""Accuracy on real images that the search never sees: the expensive oracle behind cheap metrics."""

from statistics import fmean

import torch
from torch import Tensor

from hglad.data.augmentation import DSA
from hglad.data.datasets import RealData
from hglad.evaluation.training import TrainingSettings, accuracy, train_classifier
from hglad.metrics.draws import seeded, untrained
from hglad.metrics.registry import register_metric
from hglad.networks import Classifier, require

VERSION = 1  # raise when the same images give another error rate


@register_metric("accuracy")
class HeldOutErrorRate:
    """100 minus the accuracy in percent of networks trained on the candidate alone, on held-out real images.

    Args:
        classifier: gives the architecture; its parameters are not used.
        held_out: real images that the search never sees, and not the test images.
        networks: number of networks, whose error rates are averaged.
        epochs: passes of each over the candidate; lr 0.01, no moving average, else `TrainingSettings`.
        seed: of their parameters and training.
        augmentation: DSA strategies joined by "_", drawn per batch with parameters per image; "" for none.

    Raises:
        HgladError: an impossible option; in a call, a loss that is not finite.
    """

    def __init__(
        self,
        classifier: Classifier,
        held_out: RealData,
        networks: int = 1,
        epochs: int = 100,
        seed: int = 0,
        augmentation: str = DSA,
    ) -> None:
        require("the metric 'accuracy'", networks=networks, epochs=epochs)
        seeded(seed)  # refuses an impossible one
        self.classifier, self.held_out = classifier, held_out
        self.networks, self.seed = networks, seed
        self.training = TrainingSettings(epochs, lr=0.01, augmentation=augmentation, ema_decay=None)

    def __call__(self, images: Tensor, labels: Tensor) -> float:
        """Error rate in percent of images (n, channels, height, width) in [0, 1], taken as they are."""
        generator = seeded(self.seed)
        return 100 - fmean(self._accuracy(images.detach(), labels, generator) for _ in range(self.networks))

    @torch.enable_grad()
    def _accuracy(self, images: Tensor, labels: Tensor, generator: torch.Generator) -> float:
        network = untrained(self.classifier, generator).requires_grad_()
        normalize = self.held_out.normalize
        return accuracy(
            train_classifier(network, images, labels, normalize, self.training, generator), self.held_out
        )
