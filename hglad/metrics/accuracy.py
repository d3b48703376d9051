"""Accuracy on real images that the search never sees: the expensive oracle behind cheap metrics."""

from statistics import fmean

import torch
from torch import Tensor

from hglad.data.datasets import RealData
from hglad.evaluation.training import accuracy, train_classifier
from hglad.metrics import Metric, register_metric, seeded, untrained
from hglad.networks import Classifier, require
from hglad.settings import DSA, TrainingSettings

VERSION = 1  # raise when the same images give another error rate

EPOCHS = 100


@register_metric("accuracy")
class HeldOutErrorRate(Metric):
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
        epochs: int = EPOCHS,
        seed: int = 0,
        augmentation: str = DSA,
    ) -> None:
        require("the metric 'accuracy'", networks=networks, epochs=epochs)
        seeded(seed)  # refuses an impossible one
        self.classifier, self.held_out = classifier, held_out
        self.networks, self.seed = networks, seed
        self.training = TrainingSettings(epochs, lr=0.01, augmentation=augmentation, ema_decay=None)

    @classmethod
    def passes(cls, images: int, matching: float) -> float:
        """As `Metric.passes`: the training of a network."""
        return 3 * EPOCHS * images

    @torch.enable_grad()
    def __call__(self, images: Tensor, labels: Tensor) -> float:
        """As `Metric.__call__`: an error rate in percent, of images that are taken as they are."""
        rng, normalize, accuracies = seeded(self.seed), self.held_out.normalize, []
        for _ in range(self.networks):
            network = untrained(self.classifier, rng).requires_grad_()
            network = train_classifier(network, images.detach(), labels, normalize, self.training, rng)
            accuracies.append(accuracy(network, self.held_out))
        return 100 - fmean(accuracies)
