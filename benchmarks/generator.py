"""Suite `generator`: gradient of a generator's images with respect to its latents (w, f).

Fast: the layers of `hglad.priors.stylegan_xl`: one shared convolution, dense matrices, one operation between
the two resamplings. Straightforward: the layers as the published plain-PyTorch operators have them, which
convolve with weights modulated per sample (a grouped convolution), resample by zero insertion, padding and
filtering, and keep every large map for the backward pass. It always computes in float32.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor
from torch.nn import functional as F

from bench import Case, Step
from hglad.priors.base import Latents
from hglad.priors.stylegan_xl import StyleGANXL, StyleGANXLSettings, SynthesisLayer, leaky_relu, plan_layers

SPLIT = 1  # split point of the features f, behind the first layer


@dataclass(frozen=True)
class Problem:
    """Size of a generator and of its batch."""

    name: str
    """Distinguishes the cases."""
    settings: StyleGANXLSettings
    """The generator; its weights are random."""
    images: int
    """Images in the batch."""

    @property
    def operations(self) -> float:
        """Floating-point operations of the convolutions, forward and backward to the features."""
        return sum(
            4 * self.images * plan.source.channels * plan.target.channels * kernel**2 * side**2
            for plan in plan_layers(self.settings)[SPLIT:]
            for kernel, side in [(1, plan.source.size) if plan.to_image else (3, plan.source.size + 2)]
        )


def cases(device: str, quick: bool) -> list[Case]:
    """A stem for CIFAR-10 and one for ImageNet, in float32 and with 16-bit layers; quick: 8 px."""
    small = StyleGANXLSettings(channel_base=16384, channel_max=256)
    large = StyleGANXLSettings(img_resolution=128, num_layers=14, channel_base=32768)
    problems = [Problem("32 px, 256 channels", small, 10), Problem("128 px, 512 channels", large, 1)]
    if quick:
        tiny = StyleGANXLSettings(img_resolution=8, channel_base=512, channel_max=8)
        problems = [Problem("8 px, 8 channels", tiny, 2)]
    return [case(p, precision, device) for p in problems for precision in ("float32", "bfloat16")]


def case(problem: Problem, precision: str, device: str) -> Case:
    """A generator in one number format."""
    return Case(
        f"{problem.name}, {precision}",
        fast=partial(latent_gradient, library_images, problem, device, precision),
        plain=partial(latent_gradient, textbook_images, problem, device),
        note=f"images: {problem.images}, {problem.operations / 1e9:.3g} GFLOP in convolutions",
    )


def latent_gradient(
    decode: Callable[[StyleGANXL, Latents], Tensor], problem: Problem, device: str, precision: str = "float32"
) -> Step:
    """Step: d sum(images^2) / d(w, f), as one vector."""
    draw = torch.Generator().manual_seed(0)
    prior = StyleGANXL.random(problem.settings, draw).requires_grad_(False).to(device)
    labels = torch.arange(problem.images, device=device) % problem.settings.c_dim
    with torch.no_grad():
        latents = prior.advance(prior.sample(labels, draw), 0, SPLIT)
    prior.set_precision(precision)

    def step() -> Tensor:
        w, f = (x.clone().requires_grad_() for x in (latents.w, latents.f))
        loss = decode(prior, Latents(w, f)).square().sum()
        return torch.cat([x.flatten() for x in torch.autograd.grad(loss, (w, f))])

    return step


def library_images(prior: StyleGANXL, latents: Latents) -> Tensor:
    """Images in [0, 1] by the library's layers."""
    return prior.decode(latents, SPLIT)


def textbook_images(prior: StyleGANXL, latents: Latents) -> Tensor:
    """Images in [0, 1] by the textbook layers."""
    x = latents.f
    for index in range(SPLIT, len(prior.synthesis.layer_names)):
        x = textbook_layer(prior.synthesis.layer(index), x, latents.w[:, index + 1])
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
    low = (
        (layer.plan.target.size - 1) * layer.down + 1 - size * up + taps + len(layer.down_filter) - 2 + up
    ) // 2
    grid = F.pad(grid.reshape(n, channels, size * up, size * up), [low, total - low] * 2)
    return filter_axes(grid, layer.up_filter * up)


def filter_axes(x: Tensor, filter: Tensor) -> Tensor:
    """Filter both axes, one channel at a time."""
    kernel = filter.flip(0).expand(x.shape[1], 1, 1, -1)
    return F.conv2d(F.conv2d(x, kernel, groups=x.shape[1]), kernel.mT, groups=x.shape[1])
