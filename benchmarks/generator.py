"""Suite `generator`: gradient of a generator's images with respect to its latents.

Fast: the layers of `hglad.priors.stylegan_xl`, with one shared convolution and dense matrices.
Straightforward: the layer as the published plain-PyTorch operators have it, which convolves with weights
modulated per sample (a grouped convolution) and resamples by zero insertion, padding and filtering.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor
from torch.nn import functional as F

from hglad.bench import Case, Step
from hglad.priors.stylegan_xl import StyleGANXL, StyleGANXLSettings, SynthesisLayer, leaky_relu


def cases(device: str, quick: bool) -> list[Case]:
    """The generator of 32 px with 64 and 256 channels, 10 images; quick: 8 px, 8 channels, 2 images."""
    shapes = [Shape(8, 8, 2)] if quick else [Shape(32, channels, 10) for channels in (64, 256)]
    return [
        Case(
            f"{shape.resolution} px, {shape.channels} channels",
            fast=partial(image_gradient, dense_images, shape, device),
            plain=partial(image_gradient, textbook_images, shape, device),
            note=f"{shape.images} images",
        )
        for shape in shapes
    ]


@dataclass(frozen=True)
class Shape:
    """Size of a generator and of its batch."""

    resolution: int
    channels: int
    images: int


def image_gradient(decode: Callable[[StyleGANXL, Tensor], Tensor], shape: Shape, device: str) -> Step:
    """Step: d sum(images^2) / dw of a random generator, (n, num_ws, w_dim)."""
    settings = StyleGANXLSettings(
        img_resolution=shape.resolution, channel_base=shape.channels * 64, channel_max=shape.channels
    )
    draw = torch.Generator().manual_seed(0)
    prior = StyleGANXL.random(settings, draw).requires_grad_(False)
    w = prior.sample(torch.arange(shape.images) % settings.c_dim, draw).w.to(device).requires_grad_()
    prior.to(device)
    return lambda: torch.autograd.grad(decode(prior, w).square().sum(), w)[0]


def dense_images(prior: StyleGANXL, w: Tensor) -> Tensor:
    """Images in [0, 1] by the library's layers."""
    return prior.decode(prior.start(w), 0)


def textbook_images(prior: StyleGANXL, w: Tensor) -> Tensor:
    """Images in [0, 1] by the textbook layers."""
    x = prior.synthesis.input(w[:, 0])
    for index in range(len(prior.synthesis.layer_names)):
        x = textbook_layer(prior.synthesis.layer(index), x, w[:, index + 1])
    return (x * prior.settings.output_scale + 1) / 2


def textbook_layer(layer: SynthesisLayer, x: Tensor, w: Tensor) -> Tensor:
    """The same function as `layer(x, w)`, written with per-sample weights and zero insertion."""
    if layer.to_image:
        return layer(x, w)
    styles = layer.affine(w)
    weight = layer.weight * layer.weight.square().mean(dim=(1, 2, 3), keepdim=True).rsqrt()
    styles = styles * styles.square().mean(dim=1, keepdim=True).rsqrt()
    weight = weight[None] * styles[:, None, :, None, None]  # (n, out, in, k, k)
    weight = weight * (weight.square().sum(dim=(2, 3, 4), keepdim=True) + 1e-8).rsqrt()
    weight = weight * layer.magnitude_ema.rsqrt()
    n, padding = len(x), weight.shape[-1] - 1
    x = F.conv2d(x.flatten(0, 1)[None], weight.flatten(0, 1), padding=padding, groups=n).unflatten(
        1, (n, -1)
    )[0]
    x = resample_by_zeros(x + layer.bias[:, None, None], layer)
    x = leaky_relu(x).clamp(-layer.clamp, layer.clamp)
    return filter_axes(x, layer.down_filter)[..., :: layer.down, :: layer.down]


def resample_by_zeros(x: Tensor, layer: SynthesisLayer) -> Tensor:
    """Insert zeros, pad and filter both axes."""
    up, taps = layer.up, len(layer.up_filter)
    n, channels, size, _ = x.shape
    grid = x.new_zeros(n, channels, size, up, size, up)
    grid[:, :, :, 0, :, 0] = x
    total = len(layer.up_matrix) + taps - 1 - size * up
    low = ((layer.out_size - 1) * layer.down + 1 - size * up + taps + len(layer.down_filter) - 2 + up) // 2
    grid = F.pad(grid.reshape(n, channels, size * up, size * up), [low, total - low] * 2)
    return filter_axes(grid, layer.up_filter * up)


def filter_axes(x: Tensor, filter: Tensor) -> Tensor:
    """Filter both axes, one channel at a time."""
    kernel = filter.flip(0).expand(x.shape[1], 1, 1, -1)
    return F.conv2d(F.conv2d(x, kernel, groups=x.shape[1]), kernel.mT, groups=x.shape[1])
