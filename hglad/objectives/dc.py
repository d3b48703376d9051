"""Gradient matching (Dataset Condensation, DC; Zhao et al., ICLR 2021): the same weight gradients."""

from typing import Any

import torch
from torch import Tensor, nn

from hglad.data.augmentation import Augmentation
from hglad.errors import HgladError
from hglad.networks import Classifier, initialize, require
from hglad.objectives import Derivatives, Objective, RealBatches, Weights, in_bfloat16, register_objective
from hglad.registry import unknown

VERSION = 1  # raise when the same draws give another gradient, by a change here or of `Derivatives`

LOOPS = {1: (1, 1), 10: (10, 50), 20: (20, 25), 30: (30, 20), 40: (40, 15), 50: (50, 10)}
"""ipc -> (outer, inner) loops of DC; other numbers take those of the next smaller one."""
STATISTICS = 16  # real images per class for the statistics of batch norm
BATCH_NORM = nn.modules.batchnorm._BatchNorm
SAVED = "network."  # prefix of the network's tensors in the state


def layerwise_cosine(images: Weights, real: Weights) -> Tensor:
    """Sum over layers and output rows of 1 - cosine (DC, eq. 8); norms and biases do not count."""
    total = 0
    for g, r in zip(images, real, strict=True):
        if g.dim() in (2, 4):
            g, r = g.flatten(1), r.flatten(1)  # (out, in * kernel)
            total = total + (1 - (g * r).sum(1) / (g.norm(dim=1) * r.norm(dim=1) + 1e-6)).sum()
    return total


def cosine(images: Weights, real: Weights) -> Tensor:
    """1 - cosine of all parameters in one vector."""
    g, r = (torch.cat([x.flatten() for x in weights]) for weights in (images, real))
    return 1 - (g * r).sum() / (g.norm() * r.norm() + 1e-6)


def mse(images: Weights, real: Weights) -> Tensor:
    """Squared distance over all parameters."""
    return sum((g - r).square().sum() for g, r in zip(images, real, strict=True))


DISTANCES = {f.__name__: f for f in (layerwise_cosine, cosine, mse)}


@register_objective("dc")
class GradientMatching(Objective):
    """`network` becomes the objective's own: drawn anew, matched, trained on the images, matched again.

    Args:
        network: surrogate. Batch norm takes its statistics from real images of all classes and is then
            frozen; dropout is off.
        augmentation: DSA strategies joined by "_", the same transform for both sides of a class, one strategy
            for all classes of a step; "" as in DC.
        batch_real: real images per class and step.
        distance: "layerwise_cosine" (DC), "cosine" or "mse".
        outer_loops: matching steps per drawn network; none: as DC for the ipc (H-GLaD's code: 1).
        inner_loops: epochs of training on the images between two of them; none: as DC for the ipc.
        lr_network: learning rate of that training, plain SGD. Source: DC.
        batch_network: images per step of that training. Source: DC.
        precision: of the real side, "float32" or "bfloat16".
        compile: compile the second derivative.
    """

    name = "dc"
    rates = ("lr_network",)

    def __init__(
        self,
        network: Classifier,
        augmentation: str = "",
        batch_real: int = 256,
        distance: str = "layerwise_cosine",
        outer_loops: int | None = None,
        inner_loops: int | None = None,
        lr_network: float = 0.01,
        batch_network: int = 256,
        precision: str = "float32",
        compile: bool = False,
    ) -> None:
        if distance not in DISTANCES:
            raise unknown("distance of dc,", distance, list(DISTANCES))
        loops = {"outer_loops": outer_loops, "inner_loops": inner_loops}
        given = {name: number for name, number in loops.items() if number is not None}
        require("objective 'dc'", batch_real=batch_real, batch_network=batch_network, **given)
        if not 0 < lr_network < float("inf"):
            raise HgladError(f"lr_network of dc is {lr_network!r}: expected a positive number")
        self.network, self.augmentation = network, Augmentation(augmentation)
        self.batch_real, self.batch_network, self.lr_network = batch_real, batch_network, lr_network
        self.distance, self.loops = DISTANCES[distance], (outer_loops, inner_loops)
        self.half = in_bfloat16(precision)
        self.derivatives = Derivatives(network, compile)
        self.has_batch_norm = any(isinstance(module, BATCH_NORM) for module in network.modules())
        self.position = 0  # outer loops done with this network

    @classmethod
    def passes(cls, images: int, real: int, options: dict[str, Any]) -> float:
        """As `Objective.passes`: the gradients of real images."""
        return 3 * real

    def gradient(
        self, images: Tensor, labels: Tensor, real: RealBatches, rng: torch.Generator
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """As `Objective.gradient`; the loss is the sum over classes."""
        ipc, images = self.images_per_class(images, labels, len(real.classes)), images.detach()
        outer, inner = self.loops_at(ipc)
        if self.position == 0:
            initialize(self.network, rng)
        else:
            self.train_network(images, labels, real, rng, epochs=inner)
        if self.has_batch_norm:
            freeze_statistics(self.network, real.normalize(real.batch(STATISTICS, rng).to(images)))
        self.position = (self.position + 1) % outer
        batch = real.batch(self.batch_real, rng).to(images)  # (class, batch, ch, h, w)
        transform = self.augmentation.draw(len(batch), images.shape[-2:], rng)
        weights = tuple(parameter.detach() for parameter in self.network.parameters())
        gradients, losses = [], []
        for label, (group, others) in enumerate(zip(images.unflatten(0, (-1, ipc)), batch, strict=True)):
            own = transform.select(label)  # the same for both sides of the class
            others = own.repeat(len(others))(real.normalize(others))
            with torch.autocast(images.device.type, torch.bfloat16, enabled=self.half):
                target = self.derivatives.gradient(weights, others, labels.new_full((len(others),), label))
            group, same_label = group.requires_grad_(), labels.new_full((ipc,), label)
            seen = own.repeat(ipc)(real.normalize(group))
            matched = self.derivatives.gradient(weights, seen, same_label)
            matched = tuple(g.requires_grad_() for g in matched)
            distance = self.distance(matched, target)
            direction = torch.autograd.grad(distance, matched, materialize_grads=True)  # u = dD/dg
            _, mixed, _ = self.derivatives.products(weights, direction, seen, same_label)
            gradients.append(torch.autograd.grad(seen, group, mixed)[0])
            losses.append(distance.detach())
        return torch.cat(gradients), {"loss": torch.stack(losses).sum()}

    def loops_at(self, ipc: int) -> tuple[int, int]:
        """Outer and inner loops at this number of images per class."""
        published = LOOPS[max(key for key in LOOPS if key <= max(1, ipc))]
        return tuple(own or usual for own, usual in zip(self.loops, published, strict=True))

    def train_network(
        self, images: Tensor, labels: Tensor, real: RealBatches, rng: torch.Generator, epochs: int
    ) -> None:
        """Train the network on the images as they are now."""
        weights = tuple(parameter.detach() for parameter in self.network.parameters())
        for _ in range(epochs):
            order = torch.randperm(len(images), generator=rng, device=rng.device).to(labels.device)
            for chosen in order.split(self.batch_network):
                batch = real.normalize(images[chosen])
                batch = self.augmentation.draw(len(batch), batch.shape[-2:], rng)(batch)
                gradient = self.derivatives.gradient(weights, batch, labels[chosen])
                torch._foreach_add_(weights, gradient, alpha=-self.lr_network)

    def state_dict(self) -> dict[str, Tensor]:
        """Nothing where the next step draws a new network."""
        if self.position == 0:
            return {}
        network = {f"{SAVED}{name}": value.clone() for name, value in self.network.state_dict().items()}
        return network | {"position": torch.tensor(self.position)}

    def load_state_dict(self, state: dict[str, Tensor]) -> None:
        """Go on from `state_dict`."""
        self.position = int(state.get("position", 0))
        if self.position:
            own = {name.removeprefix(SAVED): x for name, x in state.items() if name.startswith(SAVED)}
            self.network.load_state_dict(own)


@torch.no_grad()
def freeze_statistics(network: Classifier, real: Tensor) -> None:
    """Set the statistics of batch norm to those of real images (class, batch, ch, h, w), and keep them.

    DC moves the initial statistics a tenth of the way; here they are those of the images.
    """
    layers = [module for module in network.modules() if isinstance(module, BATCH_NORM)]
    for layer in layers:
        layer.reset_running_stats()
        layer.momentum = 1.0
        layer.train()
    network(real.flatten(0, 1))
    for layer in layers:
        layer.eval()
