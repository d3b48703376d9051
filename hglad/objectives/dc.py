"""Gradient matching (Dataset Condensation, DC; Zhao et al., ICLR 2021): the same weight gradients."""

from collections.abc import Callable
from functools import partial

import torch
from torch import Tensor, nn

from hglad.data.augmentation import Augmentation, Transform
from hglad.errors import HgladError
from hglad.networks import Classifier, require
from hglad.networks.initialization import initialize
from hglad.objectives.derivatives import Derivatives, Weights
from hglad.objectives.precision import first_order
from hglad.objectives.registry import RealBatches, SortedLabels, register_objective
from hglad.registry import unknown

VERSION = 1  # raise when the same draws give another gradient, by a change here or in derivatives.py

LOOPS = {1: (1, 1), 10: (10, 50), 20: (20, 25), 30: (30, 20), 40: (40, 15), 50: (50, 10)}
"""ipc -> (outer, inner) loops of DC; other numbers take those of the next smaller one."""
STATISTICS = 16  # real images per class for the statistics of batch norm


def layerwise_cosine(images: Weights, real: Weights) -> Tensor:
    """Sum over layers and output rows of 1 - cosine (DC, eq. 8); norms and biases do not count."""
    return sum(_row_cosine(g, r) for g, r in zip(images, real, strict=True) if g.dim() in (2, 4))


def _row_cosine(g: Tensor, r: Tensor) -> Tensor:
    g, r = g.flatten(1), r.flatten(1)  # (out, in * kernel)
    return (1 - (g * r).sum(1) / (g.norm(dim=1) * r.norm(dim=1) + 1e-6)).sum()


def cosine(images: Weights, real: Weights) -> Tensor:
    """1 - cosine of all parameters in one vector."""
    g, r = (torch.cat([x.flatten() for x in weights]) for weights in (images, real))
    return 1 - (g * r).sum() / (g.norm() * r.norm() + 1e-6)


def mse(images: Weights, real: Weights) -> Tensor:
    """Squared distance over all parameters."""
    return sum((g - r).square().sum() for g, r in zip(images, real, strict=True))


DISTANCES = {f.__name__: f for f in (layerwise_cosine, cosine, mse)}


def _seen(transform: Transform, real: RealBatches, images: Tensor) -> Tensor:
    """Input of the network: images of one class (n, ch, h, w) under its transform."""
    return transform.repeat(len(images))(real.normalize(images))


@register_objective("dc")
class GradientMatching:
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
        require("objective 'dc'", batch_real=batch_real, batch_network=batch_network)
        for name, loops in (("outer_loops", outer_loops), ("inner_loops", inner_loops)):
            if loops is not None:
                require("objective 'dc'", **{name: loops})
        if not 0 < lr_network < float("inf"):
            raise HgladError(f"lr_network of dc is {lr_network!r}: expected a positive number")
        self.network, self.augmentation = network, Augmentation(augmentation)
        self.batch_real, self.batch_network, self.lr_network = batch_real, batch_network, lr_network
        self.distance, self.loops = DISTANCES[distance], (outer_loops, inner_loops)
        self.first_order = first_order(precision)
        self.derivatives = Derivatives(network, compile)
        self.sorted_labels = SortedLabels()
        self.position = 0  # outer loops done with this network

    def gradient(
        self, images: Tensor, labels: Tensor, real: RealBatches, generator: torch.Generator
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """As `Objective.gradient`; logs "loss", the sum over classes. Raises `HgladError` as it."""
        ipc = self.sorted_labels.images_per_class(images, labels, len(real.classes))
        outer, inner = self._loops(ipc)
        self._prepare(images.detach(), labels, real, generator, inner)
        self.position = (self.position + 1) % outer
        batch = real.batch(self.batch_real, generator).to(images)  # (class, batch, ch, h, w)
        transform = self.augmentation.draw(len(batch), images.shape[-2:], generator)
        groups = images.detach().unflatten(0, (-1, ipc))
        gradients, losses = [], []
        for index, (group, others) in enumerate(zip(groups, batch, strict=True)):
            see = partial(_seen, transform.select(index), real)
            gradient, loss = self._match(group, see(others), index, see)
            gradients.append(gradient)
            losses.append(loss)
        return torch.cat(gradients), {"loss": torch.stack(losses).sum()}

    def _match(
        self, group: Tensor, real: Tensor, index: int, see: Callable[[Tensor], Tensor]
    ) -> tuple[Tensor, Tensor]:
        """Image gradient (ipc, ch, h, w) and distance of one class."""
        weights = tuple(parameter.detach() for parameter in self.network.parameters())
        label = torch.full((), index, device=group.device)
        with self.first_order(group.device):
            target = self.derivatives.gradient(weights, real, label.expand(len(real)))
        group = group.requires_grad_()
        seen = see(group)
        labels = label.expand(len(group))
        own = tuple(g.requires_grad_() for g in self.derivatives.gradient(weights, seen, labels))
        distance = self.distance(own, target)
        direction = torch.autograd.grad(distance, own, materialize_grads=True)  # u = dD/dg
        _, mixed, _ = self.derivatives.products(weights, direction, seen, labels)
        return torch.autograd.grad(seen, group, mixed)[0], distance.detach()

    def _loops(self, ipc: int) -> tuple[int, int]:
        published = LOOPS[max(key for key in LOOPS if key <= max(1, ipc))]
        return tuple(own or usual for own, usual in zip(self.loops, published, strict=True))

    def _prepare(self, images, labels, real, generator, inner: int) -> None:
        """A fresh network, or one more training of it on the images as they are now."""
        if self.position == 0:
            initialize(self.network, generator)
        else:
            self._train(images, labels, real, generator, inner)
        if any(isinstance(module, BATCH_NORM) for module in self.network.modules()):
            freeze_statistics(self.network, real.normalize(real.batch(STATISTICS, generator).to(images)))

    def _train(self, images, labels, real, generator, epochs: int) -> None:
        weights = tuple(parameter.detach() for parameter in self.network.parameters())
        for _ in range(epochs):
            order = torch.randperm(len(images), generator=generator, device=generator.device).to(
                labels.device
            )
            for chosen in order.split(self.batch_network):
                batch = real.normalize(images[chosen])
                batch = self.augmentation.draw(len(batch), batch.shape[-2:], generator)(batch)
                gradient = self.derivatives.gradient(weights, batch, labels[chosen])
                torch._foreach_add_(weights, gradient, alpha=-self.lr_network)

    def state_dict(self) -> dict[str, Tensor]:
        """What the next step depends on: nothing where it draws a new network."""
        if self.position == 0:
            return {}
        network = {f"network.{name}": value.clone() for name, value in self.network.state_dict().items()}
        return network | {"position": torch.tensor(self.position)}

    def load_state_dict(self, state: dict[str, Tensor]) -> None:
        """Go on from `state_dict`."""
        self.position = int(state.get("position", 0))
        if self.position:
            prefix = "network."
            own = {
                name.removeprefix(prefix): value for name, value in state.items() if name.startswith(prefix)
            }
            self.network.load_state_dict(own)


BATCH_NORM = nn.modules.batchnorm._BatchNorm


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
