"""Distribution matching (Zhao & Bilen, WACV 2023): mean embeddings under freshly drawn networks."""

import torch
from torch import Tensor

from hglad.data.augmentation import DSA, Augmentation
from hglad.networks import Classifier, require
from hglad.networks.chunks import chunk_size
from hglad.networks.initialization import dropout_from, initialize
from hglad.objectives.precision import first_order
from hglad.objectives.registry import RealBatches, SortedLabels, register_objective

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
class DistributionMatching:
    """`network` becomes the objective's own: drawn anew in every step, no gradient for its parameters.

    Each step draws `batch_real` real images per class and one transform of `augmentation` (DSA strategies
    joined by "_", "" for none) with parameters per class, the same for its real and distilled images.
    `precision` is that of the real side, "float32" or "bfloat16".
    """

    name = "dm"
    rates = ()

    def __init__(
        self, network: Classifier, augmentation: str = DSA, batch_real: int = 256, precision: str = "float32"
    ) -> None:
        require("objective 'dm'", batch_real=batch_real)
        self.network = network.train().requires_grad_(False)
        self.augmentation = Augmentation(augmentation)
        self.batch_real = batch_real
        self.first_order = first_order(precision)
        self.sorted_labels = SortedLabels()

    def gradient(
        self, images: Tensor, labels: Tensor, real: RealBatches, generator: torch.Generator
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """As `Objective.gradient`; logs "loss". Raises `HgladError` for labels not sorted by class."""
        ipc = self.sorted_labels.images_per_class(images, labels, len(real.classes))
        images = images.detach().requires_grad_()
        initialize(self.network, generator)
        loss = self._loss(images.unflatten(0, (-1, ipc)), real, generator)
        (gradient,) = torch.autograd.grad(loss, images)
        return gradient, {"loss": loss.detach()}

    def _loss(self, images: Tensor, real: RealBatches, generator: torch.Generator) -> Tensor:
        """images (class, ipc, ch, h, w), in [0, 1]."""
        batch = real.batch(self.batch_real, generator).to(images)  # (class, batch, ch, h, w)
        transform = self.augmentation.draw(len(images), images.shape[-2:], generator)

        def augmented(group: Tensor) -> Tensor:
            repeated = transform.repeat(group.shape[1])
            return repeated(real.normalize(group).flatten(0, 1)).unflatten(0, group.shape[:2])

        with dropout_from(self.network, generator):
            with self.first_order(images.device):
                real_mean = mean_embedding(self.network, augmented(batch))
            return distribution_matching(real_mean.to(images), self.network, augmented(images))

    def state_dict(self) -> dict[str, Tensor]:
        """Nothing: every step draws its own network."""
        return {}

    def load_state_dict(self, state: dict[str, Tensor]) -> None:
        """Nothing to go on from."""
