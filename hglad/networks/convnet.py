"""ConvNet, the surrogate network of dataset distillation (Gidaris & Komodakis 2018; Zhao et al. 2021)."""

from functools import lru_cache
from math import log2

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from hglad.networks import Classifier, register_network, require, require_size
from hglad.registry import unknown

VERSION = 1  # raise when the same parameters give other outputs


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
        norms = {"instance": [instance_norm], "batch": [nn.BatchNorm2d], "none": []}
        if norm not in norms:
            raise unknown("norm of convnet,", norm, list(norms))
        layers: list[nn.Module] = []
        for block in range(depth):
            if block == 0:
                layers.append(first_convolution(image_shape[0], width, 3))
            else:
                layers += [AveragePool(), nn.Conv2d(width, width, 3, padding=1)]
            layers += [*(make(width) for make in norms[norm]), nn.ReLU(inplace=True)]
        height, breadth = size_after(image_shape, depth)
        self.features = nn.Sequential(*layers)
        self.pool = AveragePool()
        self.classifier = nn.Linear(width * height * breadth, classes)


class AveragePool(nn.AvgPool2d):
    """Means of 2 x 2 pixels, (n, ch, h, w) -> (n, ch, h // 2, w // 2).

    On a processor one matrix product over pairs of rows, several times faster than PyTorch's loop, which is
    a fifth of a ConvNet's time. A compiled network and odd sizes take PyTorch's.
    """

    def __init__(self) -> None:
        super().__init__(2)

    def forward(self, maps: Tensor) -> Tensor:
        height, width = maps.shape[-2:]
        if maps.device.type != "cpu" or height % 2 or width % 2 or torch.compiler.is_compiling():
            return F.avg_pool2d(maps, 2)
        pairs = maps.unflatten(-2, (-1, 2)).flatten(-2)  # (n, ch, h / 2, 2 w)
        return pairs @ _means(width, maps.dtype)


@lru_cache
def _means(width: int, dtype: torch.dtype) -> Tensor:
    """(2 w, w / 2): a quarter where the pixel belongs to the mean."""
    one_row = torch.eye(width // 2, dtype=dtype).repeat_interleave(2, dim=0) / 4  # (w, w / 2)
    return one_row.repeat(2, 1)


def default_depth(image_shape: tuple[int, int, int]) -> int:
    """3 up to 32 px, then one more per doubling: 5 at 128 px and 6 at 256 px, as GLaD."""
    return max(3, round(log2(max(1, min(image_shape[1:])))) - 2)


def instance_norm(width: int) -> nn.GroupNorm:
    """Instance norm with scale and shift, as GroupNorm with one channel per group."""
    return nn.GroupNorm(width, width)


def first_convolution(channels: int, width: int, kernel: int, bias: bool = True) -> nn.Conv2d:
    """Stride-1 convolution that keeps the size; a gray image is padded by 2 more on each side."""
    return nn.Conv2d(channels, width, kernel, padding=kernel // 2 + (2 if channels == 1 else 0), bias=bias)


def size_after(image_shape: tuple[int, int, int], halvings: int) -> tuple[int, int]:
    """Height and width after `first_convolution` and `halvings` poolings by 2."""
    channels, height, width = image_shape
    extra = 4 if channels == 1 else 0
    return (height + extra) >> halvings, (width + extra) >> halvings
