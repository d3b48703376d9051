"""Classifier networks by name."""

from collections.abc import Iterable

import torch

from hglad.errors import HgladError
from hglad.networks import libraries
from hglad.networks.classifier import Classifier, initialize, redraw, require, require_size, scaled
from hglad.registry import Registry

__all__ = [
    "NETWORKS", "Classifier", "create_network", "initialize", "redraw", "register_network",
    "require", "require_size", "scaled",
]  # fmt: skip


class NetworkRegistry(Registry):
    """Own networks by name, and those of torchvision and timm as "library:model"."""

    def check(self, name: str, options: Iterable[str]) -> None:
        """As `Registry.check`."""
        (libraries.check if ":" in str(name) else super().check)(name, options)

    def version(self, name: str) -> int | str:
        """The number `VERSION` of the module that defines the network; of a library, with its release."""
        return libraries.version(name) if ":" in str(name) else super().version(name)


NETWORKS = NetworkRegistry("network", __package__, given=("image_shape", "classes"))
register_network = NETWORKS.register


def create_network(
    name: str,
    image_shape: tuple[int, int, int],
    classes: int = 10,
    rng: torch.Generator | None = None,
    **options: object,
) -> Classifier:
    """A freshly initialized classifier on the CPU.

    `name` is a registered one, or "torchvision:" or "timm:" and a model of that library, such as
    "torchvision:resnet50"; its options are then those of the model's constructor. `image_shape` is
    (channels, height, width); `rng` draws the parameters (None: seed 0, the same bits at every call).
    Raises `HgladError` for an unknown name or option, an impossible value of one, and images too small for
    the network.
    """
    if len(image_shape) != 3:
        raise HgladError(f"image_shape is {tuple(image_shape)}; give (channels, height, width)")
    channels, height, width = image_shape
    require(f"the network {name!r}", channels=channels, height=height, width=width, classes=classes)
    rng = rng or torch.Generator().manual_seed(0)
    if ":" in str(name):
        return libraries.LibraryNetwork(name, tuple(image_shape), classes, rng, options)
    with torch.device("meta"):  # no draw from the global generator
        network = NETWORKS.create(name, tuple(image_shape), classes, **options)
    return initialize(network.to_empty(device="cpu"), rng)
