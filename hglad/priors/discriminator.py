"""Projection discriminator for small images (Miyato & Koyama 2018), with minibatch statistics."""

import math

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from hglad.errors import HgladError


class Block(nn.Module):
    """Residual block of two convolutions that halves the resolution."""

    def __init__(self, inputs: int, outputs: int):
        super().__init__()
        self.conv0 = nn.Conv2d(inputs, inputs, 3, padding=1)
        self.conv1 = nn.Conv2d(inputs, outputs, 3, padding=1)
        self.skip = nn.Conv2d(inputs, outputs, 1, bias=False)

    def forward(self, x: Tensor) -> Tensor:  # (n, inputs, h, w) -> (n, outputs, h / 2, w / 2)
        y = F.leaky_relu(self.conv0(x), 0.2)
        y = F.avg_pool2d(F.leaky_relu(self.conv1(y), 0.2), 2)
        return (self.skip(F.avg_pool2d(x, 2)) + y) / math.sqrt(2)


def minibatch_deviation(x: Tensor, group: int = 4) -> Tensor:
    """Append the standard deviation within groups of images as one more channel (Karras et al. 2018)."""
    n, _, height, width = x.shape
    group = math.gcd(group, n)
    deviation = x.unflatten(0, (group, n // group)).var(dim=0, unbiased=False).add(1e-8).sqrt()
    channel = deviation.mean(dim=(1, 2, 3)).repeat(group)[:, None, None, None]
    return torch.cat([x, channel.expand(n, 1, height, width)], dim=1)


class Discriminator(nn.Module):
    """Logit that an image (n, channels, h, w) in [0, 1] is real, given its label (n,)."""

    def __init__(self, image_shape: tuple[int, int, int], classes: int, width: int = 32):
        super().__init__()
        channels, size, _ = image_shape
        halvings = int(math.log2(size / 4)) if size >= 8 else 0
        if halvings < 1 or 4 * 2**halvings != size:
            raise HgladError(f"cannot train a generator at {size} px: expected a power of two of at least 8")
        widths = [min(width * 2**index, 8 * width) for index in range(halvings + 1)]
        self.stem = nn.Conv2d(channels, widths[0], 3, padding=1)
        self.blocks = nn.Sequential(*(Block(a, b) for a, b in zip(widths, widths[1:], strict=False)))
        self.head = nn.Conv2d(widths[-1] + 1, widths[-1], 3, padding=1)
        self.project = nn.Linear(widths[-1] * 16, 4 * width)
        self.score = nn.Linear(4 * width, 1)
        self.embed = nn.Linear(classes, 4 * width, bias=False)

    def forward(self, images: Tensor, labels: Tensor) -> Tensor:  # -> (n,)
        x = self.blocks(F.leaky_relu(self.stem(images * 2 - 1), 0.2))
        x = F.leaky_relu(self.head(minibatch_deviation(x)), 0.2)
        x = F.leaky_relu(self.project(x.flatten(1)), 0.2)
        condition = self.embed(F.one_hot(labels, self.embed.in_features).to(x.dtype))
        return self.score(x).squeeze(1) + (x * condition).sum(dim=1) / math.sqrt(x.shape[1])
