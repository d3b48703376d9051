"""ConvNet, the surrogate network of dataset distillation (Gidaris & Komodakis 2018; Zhao et al. 2021)."""

from math import log2

from torch import nn

from hglad.networks import Classifier, register_network, require, require_size
from hglad.networks.pooling import AveragePool
from hglad.registry import unknown

VERSION = 1  # raise when the same parameters give other outputs

NORMS = {
    "instance": lambda width: [instance_norm(width)],
    "batch": lambda width: [nn.BatchNorm2d(width)],
    "none": lambda width: [],
}


def instance_norm(width: int) -> nn.GroupNorm:
    """Instance norm with scale and shift, as GroupNorm with one channel per group."""
    return nn.GroupNorm(width, width)


def first_convolution(channels: int, width: int, kernel: int, bias: bool = True) -> nn.Conv2d:
    """Stride-1 convolution that keeps the size; a grey image is padded by 2 more on each side."""
    return nn.Conv2d(channels, width, kernel, padding=kernel // 2 + (2 if channels == 1 else 0), bias=bias)


def size_after(image_shape: tuple[int, int, int], halvings: int) -> tuple[int, int]:
    """Height and width after `first_convolution` and `halvings` poolings by 2."""
    channels, height, width = image_shape
    extra = 4 if channels == 1 else 0
    return (height + extra) >> halvings, (width + extra) >> halvings


def default_depth(image_shape: tuple[int, int, int]) -> int:
    """3 up to 32 px, then one more per doubling: 5 at 128 px and 6 at 256 px, as GLaD."""
    return max(3, round(log2(max(1, min(image_shape[1:])))) - 2)


@register_network("convnet")
class ConvNet(Classifier):
    """`depth` blocks of convolution 3x3, norm, ReLU, average pool 2; then a linear layer.

    `norm` is "instance", "batch" or "none"; depth None takes `default_depth`. Parameters are named as in a
    plain `features` Sequential (0 convolution, 1 norm, 2 ReLU, 3 pool, 4 convolution, ...); the last pool,
    which has no parameters, stands apart so that the feature maps are those before it.
    """

    def __init__(
        self,
        image_shape: tuple[int, int, int],
        classes: int,
        depth: int | None = None,
        width: int = 128,
        norm: str = "instance",
    ) -> None:
        super().__init__(image_shape)
        depth = default_depth(image_shape) if depth is None else depth
        require("convnet", depth=depth, width=width)
        require_size(f"convnet of depth {depth}", image_shape, 2**depth)
        if norm not in NORMS:
            raise unknown("norm of convnet,", norm, list(NORMS))
        layers = [first_convolution(image_shape[0], width, 3), *NORMS[norm](width), nn.ReLU(inplace=True)]
        for _ in range(depth - 1):
            layers += [
                AveragePool(),
                nn.Conv2d(width, width, 3, padding=1),
                *NORMS[norm](width),
                nn.ReLU(inplace=True),
            ]
        height, breadth = size_after(image_shape, depth)
        self.features = nn.Sequential(*layers)
        self.pool = AveragePool()
        self.classifier = nn.Linear(width * height * breadth, classes)
