"""A generator with one split point before the pixels: a linear layer, nearest neighbors, a convolution."""

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from hglad.networks import initialize
from hglad.priors import PRIORS
from hglad.priors.base import Generator, GeneratorSettings

VERSION = 1


class BlockSettings(GeneratorSettings):
    """Sizes of a generator of blocks."""

    z_dim: int = 8
    """Dimensions of the noise."""
    c_dim: int = 10
    """Classes."""
    img_resolution: int = 16
    """Height and width of the images in pixels."""
    img_channels: int = 1
    """Channels of the images."""
    channels: int = 8
    """Channels of the features, which are 4 x 4."""


@PRIORS.register("blocks")
class Blocks(Generator):
    """Features of 4 x 4 from noise and class, enlarged to the image."""

    Settings = BlockSettings
    layers, layer_names, num_ws = ("features", "pixels"), ["to_pixels"], 2

    def __init__(self, settings: BlockSettings) -> None:
        super().__init__()
        self.settings = settings
        self.of_class = nn.Linear(settings.c_dim, settings.z_dim)
        self.to_features = nn.Linear(settings.z_dim, settings.channels * 16)
        self.to_pixels = nn.Conv2d(settings.channels, settings.img_channels, 3, padding=1)

    def map(self, z: Tensor, labels: Tensor, truncation: float | None = None) -> Tensor:
        pull = self.truncation if truncation is None else truncation
        w = pull * z + self.of_class(F.one_hot(labels, self.settings.c_dim).to(z))
        return w[:, None].repeat(1, self.num_ws, 1)  # (n, num_ws, z_dim)

    def first_map(self, w: Tensor) -> Tensor:
        return self.to_features(w).unflatten(1, (-1, 4, 4))  # (n, channels, 4, 4)

    def run_layer(self, index: int, x: Tensor, w: Tensor) -> Tensor:
        return self.to_pixels(F.interpolate(x, size=self.settings.img_resolution)).sigmoid()

    def modules_of(self, index: int) -> tuple[str, ...]:
        return ("to_pixels",)

    def initialize(self, rng: torch.Generator) -> None:
        initialize(nn.ModuleList(self.children()), rng)

    def measure_statistics(self, rng: torch.Generator, trained: bool = True) -> None:
        """It has none."""

    def split_points(self) -> list[dict[str, Any]]:
        shapes = {self.settings.channels: 4, self.settings.img_channels: self.settings.img_resolution}
        return [{"channels": channels, "size": size} for channels, size in shapes.items()]
