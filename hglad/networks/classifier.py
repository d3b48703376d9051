"""What every classifier network offers, and how its parameters are drawn."""

from functools import singledispatch
from typing import ClassVar

import torch
from torch import Tensor, nn

from hglad.errors import HgladError


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
        self.title = type(self).__name__  # what messages call this network

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
        images = self._checked(images)
        if layer == -1:
            return self.maps_and_embedding(images)[0]
        end = self._end_of(layer)
        return self.features[:end](images)

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
        modules = getattr(self, "features", None)
        modules = modules if isinstance(modules, nn.Sequential) else ()
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


@torch.no_grad()
def initialize(network: nn.Module, rng: torch.Generator) -> nn.Module:
    """Draw every parameter anew, in place, from PyTorch's default distributions; return the network.

    The draw happens on `rng.device`: a generator on the CPU gives the same network on every device. A network
    with a method `draw_parameters` draws them by itself. Raises `HgladError` for a module with parameters
    and no rule in `redraw`.
    """
    if hasattr(network, "draw_parameters"):
        network.draw_parameters(rng)
    else:
        for module in network.modules():
            redraw(module, rng)
    return network


@singledispatch
def redraw(module: nn.Module, rng: torch.Generator) -> None:
    """The rule of one module type for its own parameters; `@redraw.register` adds one."""
    if next(module.parameters(recurse=False), None) is not None:
        kind = type(module).__name__
        raise HgladError(f"no rule to initialize a {kind}; register one with hglad.networks.redraw.register")


@redraw.register
def _(module: nn.Linear | nn.Conv2d, rng: torch.Generator) -> None:
    # Kaiming uniform with a = sqrt(5) has gain sqrt(1/3), so its bound is that of the bias too.
    bound = module.weight[0].numel() ** -0.5
    for parameter in module.parameters(recurse=False):  # weight, bias
        draw = torch.empty(parameter.shape, dtype=parameter.dtype, device=rng.device)
        parameter.copy_(draw.uniform_(-bound, bound, generator=rng))


@redraw.register
def _(module: nn.GroupNorm | nn.LayerNorm | nn.BatchNorm2d, rng: torch.Generator) -> None:
    module.reset_parameters()  # ones and zeros, no draw


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


def scaled(widths: tuple[int, ...], factor: float) -> tuple[int, ...]:
    """Widths of layers times `factor`, at least 1 each; raises `HgladError` unless the factor is positive."""
    if not factor > 0:
        raise HgladError(f"width is {factor!r}; give a factor above 0, 1.0 for the published network")
    return tuple(max(1, round(width * factor)) for width in widths)
