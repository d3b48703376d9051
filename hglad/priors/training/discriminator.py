"""Discriminators for small images: of the pixels, and of what a trained classifier sees in them."""

import math

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from hglad.errors import HgladError
from hglad.networks import Classifier, initialize
from hglad.networks.passes import global_seed


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
    """Logit that an image (n, channels, h, w) in [0, 1] is real, given its label (n,).

    A projection discriminator (Miyato & Koyama 2018) with minibatch statistics.
    """

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
        logits = self.score(x).squeeze(1) + (x * condition).sum(dim=1) / math.sqrt(x.shape[1])
        return logits.to(images.dtype)  # a loss is not made of 16-bit numbers


class FeatureHead(nn.Module):
    """Logits at up to 4 x 4 places of one block's maps (n, channels, h, w), given the labels (n,)."""

    def __init__(self, channels: int, size: int, classes: int, width: int):
        super().__init__()
        halvings = max(0, int(math.log2(size / 4)))
        widths = [channels, *[width] * max(1, halvings)]
        kernel, stride = (4, 2) if halvings else (3, 1)
        self.convolutions = nn.ModuleList(
            nn.Conv2d(a, b, kernel, stride, padding=1) for a, b in zip(widths, widths[1:], strict=False)
        )
        self.score = nn.Conv2d(width, 1, 1)
        self.embed = nn.Linear(classes, width, bias=False)

    def forward(self, x: Tensor, labels: Tensor) -> Tensor:  # -> (n, places)
        for convolution in self.convolutions:
            x = F.leaky_relu(convolution(x), 0.2)
        condition = self.embed(F.one_hot(labels, self.embed.in_features).to(x.dtype))
        projected = (x * condition[:, :, None, None]).sum(dim=1) / math.sqrt(x.shape[1])
        return (self.score(x).squeeze(1) + projected).flatten(1)


class FeatureDiscriminator(nn.Module):
    """A head with spectral norm on the maps of each block of a frozen classifier.

    Sauer et al., NeurIPS 2021 (projected GANs, as StyleGAN-XL is trained), and Kumari et al., CVPR 2022
    (together with a discriminator of the pixels). The classifier sees normalized images (n, channels, h, w).
    """

    def __init__(self, classifier: Classifier, classes: int, width: int, rng: torch.Generator):
        super().__init__()
        self.sees = [classifier]  # in a list: its parameters are not this module's
        with torch.no_grad():
            maps = self.maps(torch.zeros(1, *classifier.image_shape, device=rng.device))
        with torch.device("meta"):  # no draw from the global generator
            heads = nn.ModuleList(FeatureHead(x.shape[1], x.shape[-1], classes, width) for x in maps)
        self.heads = initialize(heads.to_empty(device=rng.device), rng)
        with global_seed(int(torch.randint(2**62, (), generator=rng, device=rng.device))):
            for module in [m for m in self.heads.modules() if isinstance(m, (nn.Conv2d, nn.Linear))]:
                nn.utils.parametrizations.spectral_norm(module)

    def maps(self, images: Tensor) -> list[Tensor]:
        """Maps behind each block of the classifier, the largest first."""
        found, x = [], images
        for module in self.sees[0].features:
            x = module(x)
            if isinstance(module, self.sees[0].block_end):
                found.append(x)
        return found

    def forward(self, images: Tensor, labels: Tensor) -> list[Tensor]:
        """Logits (n, places) of every head."""
        pairs = zip(self.heads, self.maps(images), strict=True)
        return [head(x, labels).to(images.dtype) for head, x in pairs]
