"""How far the mean color of every class is from that of its real images."""

import torch
from torch import Tensor

from hglad.data.datasets import RealData
from hglad.metrics import Metric, register_metric

VERSION = 1


@register_metric("mean_color")
class MeanColor(Metric):
    """Squared distance of mean colors, summed over classes.

    Args:
        real: real training images.
        power: 2 for the squared distance, 1 for the distance.
    """

    def __init__(self, real: RealData, power: int = 2) -> None:
        self.power = power
        classes = real.images.split(list(real.counts))
        means = [images.float().mean(dim=(0, 2, 3)) / 255 for images in classes]
        self.real = torch.stack(means)  # (class, ch)

    def __call__(self, images: Tensor, labels: Tensor) -> float:
        own = [images[labels == label].mean(dim=(0, 2, 3)) for label in range(len(self.real))]
        return (torch.stack(own) - self.real).norm(dim=1).pow(self.power).sum().item()
