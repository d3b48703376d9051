"""Pull the mean image of every class towards the mean of a real batch: matching without a network."""

import torch
from torch import Tensor

from hglad.objectives import Objective, RealBatches, register_objective

VERSION = 1


@register_objective("mean_image")
class MeanImage(Objective):
    """Squared distance of mean images; `batch_real` real images per class and step."""

    name = "mean_image"

    def __init__(self, batch_real: int = 256) -> None:
        self.batch_real = batch_real

    def gradient(
        self, images: Tensor, labels: Tensor, real: RealBatches, rng: torch.Generator
    ) -> tuple[Tensor, dict[str, Tensor]]:
        ipc = self.images_per_class(images, labels, len(real.classes))
        images = images.detach().requires_grad_()
        means = images.unflatten(0, (-1, ipc)).mean(dim=1)  # (class, ipc, ch, h, w) -> (class, ch, h, w)
        loss = (means - real.batch(self.batch_real, rng).to(images).mean(dim=1)).square().sum()
        (gradient,) = torch.autograd.grad(loss, images)
        return gradient, {"loss": loss.detach()}
