"""Distribution matching (Zhao & Bilen, WACV 2023): mean embeddings under freshly drawn networks."""

import torch
from torch import Tensor

from hglad.data.augmentation import Augmentation
from hglad.networks import Classifier, initialize, require
from hglad.networks.passes import chunk_size, dropout_from
from hglad.objectives import Objective, RealBatches, in_bfloat16, register_objective
from hglad.settings import DSA

VERSION = 1  # raise when the same draws give another gradient


def distribution_matching(real_mean: Tensor, network: Classifier, images: Tensor) -> Tensor:
    """Squared distance of the mean embeddings, summed over classes (Zhao & Bilen 2023, eq. 4).

    real_mean (class, feature), images (class, ipc, ch, h, w).
    """
    images_mean = network.embed(images).mean(dim=1)  # (class, ipc, ch, h, w) -> (class, feature)
    return (real_mean - images_mean).square().sum()


@torch.no_grad()
def mean_embedding(network: Classifier, real: Tensor) -> Tensor:
    """(class, batch, ch, h, w) -> (class, feature), in as many chunks as the processor's cache asks for."""
    flat = real.flatten(0, 1)
    parts = [network.embed(part) for part in flat.split(chunk_size(network, flat))]
    return torch.cat(parts).to(real.dtype).unflatten(0, real.shape[:2]).mean(dim=1)


@register_objective("dm")
class DistributionMatching(Objective):
    """`network` becomes the objective's own: drawn anew in every step, no gradient for its parameters.

    Each step draws `batch_real` real images per class and one transform of `augmentation` (DSA strategies
    joined by "_", "" for none) with parameters per class, the same for its real and distilled images.
    `precision` is that of the real side, "float32" or "bfloat16".
    """

    name = "dm"

    def __init__(
        self, network: Classifier, augmentation: str = DSA, batch_real: int = 256, precision: str = "float32"
    ) -> None:
        require("objective 'dm'", batch_real=batch_real)
        self.network = network.train().requires_grad_(False)
        self.augmentation = Augmentation(augmentation)
        self.batch_real, self.half = batch_real, in_bfloat16(precision)

    def gradient(
        self, images: Tensor, labels: Tensor, real: RealBatches, rng: torch.Generator
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """As `Objective.gradient`."""
        ipc = self.images_per_class(images, labels, len(real.classes))
        images = images.detach().requires_grad_()
        initialize(self.network, rng)
        batch = real.batch(self.batch_real, rng).to(images)  # (class, batch, ch, h, w)
        transform = self.augmentation.draw(len(batch), images.shape[-2:], rng)

        def augmented(group: Tensor) -> Tensor:
            repeated = transform.repeat(group.shape[1])
            return repeated(real.normalize(group).flatten(0, 1)).unflatten(0, group.shape[:2])

        with dropout_from(self.network, rng):
            with torch.autocast(images.device.type, torch.bfloat16, enabled=self.half):
                real_mean = mean_embedding(self.network, augmented(batch))
            groups = images.unflatten(0, (-1, ipc))  # (class, ipc, ch, h, w)
            loss = distribution_matching(real_mean.to(images), self.network, augmented(groups))
        (gradient,) = torch.autograd.grad(loss, images)
        return gradient, {"loss": loss.detach()}
