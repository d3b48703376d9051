"""Names of networks, and what every classifier network offers."""

from collections.abc import Collection
from typing import Any, ClassVar, Protocol

import torch
from torch import Tensor, nn

from hglad.errors import HgladError
from hglad.networks.initialization import initialize
from hglad.registry import Registry, import_members, unknown


class Library(Protocol):
    """A package whose models are networks by the name "library:model", such as "torchvision:resnet50"."""

    def check(self, model: str, options: Collection[str]) -> None:
        """Raise `HgladError` for a model that it does not have and an option that is not the user's."""

    def create(
        self,
        model: str,
        image_shape: tuple[int, int, int],
        classes: int,
        generator: torch.Generator,
        options: dict[str, Any],
    ) -> "Classifier":
        """The model with parameters that follow from `generator`."""

    def version(self) -> str:
        """Changes when its models may have changed."""


class NetworkRegistry(Registry):
    """Own networks by name, and those of libraries by "library:model"."""

    def __init__(self) -> None:
        super().__init__("network", __package__, given=("image_shape", "classes"))
        self._libraries: dict[str, Library] = {}

    @property
    def libraries(self) -> dict[str, Library]:
        """Libraries of networks by name."""
        import_members(self.package)
        return self._libraries

    def library(self, name: str) -> tuple[Library, str] | None:
        """Library and model of a name with a colon; raises `HgladError` for an unknown library."""
        library, colon, model = str(name).partition(":")
        if not colon:
            return None
        if library not in self.libraries:
            raise unknown("library of networks", library, list(self.libraries))
        return self.libraries[library], model

    def version(self, name: str) -> int | str:
        """The number `VERSION` of the module that defines the network; of a library, with its release."""
        found = self.library(name)
        return found[0].version() if found else super().version(name)


NETWORKS = NetworkRegistry()
register_network = NETWORKS.register


class Classifier(nn.Module):
    """Base of the networks: `features` (maps), `pool` (maps to a vector) and `classifier` (vector to logits).

    A network whose maps do not become its embedding by pooling overrides `maps_and_embedding`.
    """

    features: nn.Module
    pool: nn.Module
    classifier: nn.Linear
    block_end: ClassVar[tuple[type[nn.Module], ...]] = (nn.ReLU,)
    """Modules of `features` that end a block: maps can be taken behind each."""

    def __init__(self, image_shape: tuple[int, int, int]) -> None:
        super().__init__()
        self.image_shape = tuple(image_shape)

    @property
    def title(self) -> str:
        """What messages call this network."""
        return type(self).__name__

    def maps_and_embedding(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """Last feature maps and, computed from them, the embedding.

        images (n, ch, h, w) -> maps (n, K, h', w'), embedding (n, features). The maps are those that Grad-CAM
        reads: the last ones before the final pooling. Logits are `classifier(embedding)`, so the gradient
        of a logit with respect to the maps exists.
        """
        maps = self.features(images)  # (n, K, h', w')
        return maps, self.pool(maps).flatten(1)

    def feature_maps(self, images: Tensor, layer: int = -1) -> Tensor:
        """(n, ch, h, w) -> feature maps behind block `layer`, (n, K, h', w'); -1: before the final pooling.

        Raises `HgladError` for a block that `features` does not have.
        """
        if layer == -1:
            return self.maps_and_embedding(self._checked(images))[0]
        end = self._end_of(layer)
        return self.features[:end](self._checked(images))

    def logits_of_maps(self, maps: Tensor, layer: int = -1) -> Tensor:
        """Logits (n, classes) of `feature_maps` (n, K, h', w') of block `layer`, by the layers behind it.

        Raises `HgladError` for a network whose logits need more than these maps.
        """
        if not hasattr(self, "pool"):
            raise HgladError(
                f"the logits of a {self.title} do not follow from its feature maps alone, as "
                "Grad-CAM needs; take another network, such as convnet"
            )
        if layer != -1:
            maps = self.features[self._end_of(layer) :](maps)
        return self.classifier(self.pool(maps).flatten(1))

    def embed(self, images: Tensor) -> Tensor:
        """(..., ch, h, w) -> input of the last linear layer, (..., features)."""
        batch = self._checked(images).flatten(0, -4)  # (n, ch, h, w)
        return self.maps_and_embedding(batch)[1].unflatten(0, images.shape[:-3])

    def forward(self, images: Tensor) -> Tensor:
        """(..., ch, h, w) -> logits (..., classes)."""
        return self.classifier(self.embed(images))

    def _end_of(self, layer: int) -> int:
        """How many modules of `features` lead to the maps behind block `layer`."""
        features = getattr(self, "features", None)
        modules = features if isinstance(features, nn.Sequential) else ()
        ends = [index for index, module in enumerate(modules, 1) if isinstance(module, self.block_end)]
        if isinstance(layer, bool) or not isinstance(layer, int) or not -len(ends) <= layer < len(ends):
            own = f"{-len(ends)} to {len(ends) - 1}, one of the blocks" if ends else "-1, the last maps"
            raise HgladError(f"layer is {layer!r}; give {own} of this {self.title}")
        return ends[layer]

    def _checked(self, images: Tensor) -> Tensor:
        if images.dim() < 4 or tuple(images.shape[-3:]) != self.image_shape:
            raise HgladError(
                f"images of shape {tuple(images.shape)} given to a network made for images of "
                f"{self.image_shape}; create it with their image_shape"
            )
        return images


def scaled(widths: tuple[int, ...], factor: float) -> tuple[int, ...]:
    """Widths of layers times `factor`, at least 1 each; raises `HgladError` unless the factor is positive."""
    if not factor > 0:
        raise HgladError(f"width is {factor!r}; give a factor above 0, 1.0 for the published network")
    return tuple(max(1, round(width * factor)) for width in widths)


def require(kind: str, **numbers: object) -> None:
    """Raise `HgladError` unless every named number is a whole number of at least 1."""
    for name, value in numbers.items():
        if isinstance(value, bool) or not isinstance(value, int) or value < 1:
            raise HgladError(f"{kind} has {name}={value!r}; give a whole number of at least 1")


def require_size(kind: str, image_shape: tuple[int, int, int], smallest: int) -> None:
    """Raise `HgladError` when a side of the image is below `smallest` pixels."""
    _, height, width = image_shape
    if min(height, width) < smallest:
        raise HgladError(
            f"{kind} needs images of at least {smallest} x {smallest} px, "
            f"got {height} x {width}; use larger images or another network"
        )


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
    if found := NETWORKS.library(name):
        library, model = found
        return library.create(model, tuple(image_shape), classes, rng, options)
    with torch.device("meta"):  # no draw from the global generator
        network = NETWORKS.create(name, tuple(image_shape), classes, **options)
    network.to_empty(device="cpu")
    return initialize(network, rng)
